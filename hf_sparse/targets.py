"""Which weights of a model a recipe means: the Linears of its layer stack."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_sparse.expressions import Expression


@dataclass(frozen=True)
class Target:
    """A weight that can be pruned, whatever way its module stores it.

    `name` is the key of its parameter in the state dict, with the expert's number in brackets where the
    parameter holds one matrix for every expert.
    """

    name: str
    module: nn.Module
    parameter_name: str = "weight"
    transposed: bool = False
    expert: int | None = None

    @property
    def parameter(self) -> nn.Parameter:
        return getattr(self.module, self.parameter_name)

    @property
    def weight(self) -> Tensor:
        """The logical matrix, (out, in), as a view of the parameter."""
        return self.view(self.parameter)

    @property
    def gradient(self) -> Tensor | None:
        """The gradient of the matrix, (out, in), as a view of the parameter's."""
        gradient = self.parameter.grad
        return None if gradient is None else self.view(gradient)

    def view(self, values: Tensor) -> Tensor:
        """Return the (out, in) part that is this target's of anything shaped like its parameter."""
        values = values if self.expert is None else values[self.expert]
        return values.t() if self.transposed else values


@dataclass(frozen=True)
class LeftOut:
    """A Linear, or the like, that is not a target, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Targets:
    """The prunable weights of one model in the order of its modules; `print` shows a preview."""

    found: tuple[Target, ...]
    left_out: tuple[LeftOut, ...]

    def __iter__(self) -> Iterator[Target]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    @property
    def names(self) -> list[str]:
        return [target.name for target in self.found]

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        return {target.name: tuple(target.weight.shape) for target in self.found}

    def __str__(self) -> str:
        total = sum(target.weight.numel() for target in self.found)
        lines = [f"{len(self.found)} targets, {total:,} weights"]
        lines += [f"  {name}  {rows} x {columns}" for name, (rows, columns) in self.shapes.items()]
        lines += [f"{len(self.left_out)} Linears left out"] if self.left_out else []
        lines += [f"  {entry.name}: {entry.reason}" for entry in self.left_out]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Candidate:
    """A parameter that multiplies activations, and how it lies; `problem` says why it cannot be pruned."""

    name: str
    module: nn.Module
    parameter_name: str = "weight"
    transposed: bool = False
    problem: str | None = None

    @property
    def parameter(self) -> nn.Parameter:
        return getattr(self.module, self.parameter_name)

    def targets(self) -> list[Target]:
        key = self.name if self.parameter_name != "weight" else f"{self.name}.weight".lstrip(".")
        if self.parameter.dim() == 2:
            return [Target(key, self.module, self.parameter_name, self.transposed)]
        return [
            Target(f"{key}[{expert}]", self.module, self.parameter_name, self.transposed, expert)
            for expert in range(len(self.parameter))
        ]


def find_targets(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Targets:
    """Find the weights to prune, each once, with the reason for every Linear that is left out.

    By default these are the Linears in the layer stack (an `nn.ModuleList`) of `model.base_model`, the
    `Conv1D` of GPT-2 and the experts of mixtures included, without the routers that choose among experts.
    `include` chooses among all Linears of the model instead, `exclude` removes from the choice; both hold
    module names or regular expressions searched in them. Raises `ValueError` if an expression is malformed or
    matches no Linear, or if nothing is left to prune.
    """
    for role, expressions in (("include", include), ("exclude", exclude)):
        if isinstance(expressions, str):
            raise ValueError(f"{role} is a list of names, got {expressions!r}; write [{expressions!r}]")
    stack, base, routers = _layer_stack(model), _base_names(model), _routers(model)
    candidates = list(_candidates(model, stack))
    included, excluded = _compiled(include, candidates, "include"), _compiled(exclude, candidates, "exclude")
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}

    seen: dict[int, str] = {}
    found, left_out = [], []
    for candidate in candidates:
        name, key = candidate.name, id(candidate.parameter)
        reason = _reason_against(candidate, stack, base, routers, embeddings, included, excluded)
        if reason is None and key in seen:
            reason = f"shares its weight with {seen[key]}"
        if reason is not None:
            left_out.append(LeftOut(name, reason))
            continue
        seen[key] = name
        found += candidate.targets()

    targets = Targets(tuple(found), tuple(left_out))
    if not found:
        raise ValueError(f"{type(model).__name__} has nothing to prune; name Linears with include. {targets}")
    return targets


def _candidates(model: nn.Module, stack: set[str]) -> Iterator[_Candidate]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield _Candidate(name, module, transposed=isinstance(module, Conv1D))
        elif name in stack and not isinstance(module, nn.Conv1d):
            for parameter_name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 3:
                    yield _experts(f"{name}.{parameter_name}", module, parameter_name)


def _experts(name: str, module: nn.Module, parameter_name: str) -> _Candidate:
    # Set by transformers on every mixture whose matrices it knows how to multiply.
    transposed = getattr(module, "is_transposed", None)
    problem = "3-D parameter of unknown orientation" if transposed is None else None
    return _Candidate(name, module, parameter_name, bool(transposed), problem)


def _reason_against(
    candidate: _Candidate,
    stack: set[str],
    base: set[str],
    routers: set[str],
    embeddings: set[int],
    included: list[Expression],
    excluded: list[Expression],
) -> str | None:
    name = candidate.name
    owner = name if candidate.parameter_name == "weight" else name.rpartition(".")[0]
    if id(candidate.parameter) in embeddings:
        return "tied to an embedding"
    if match := next(filter(None, (pattern.search(name) for pattern in excluded)), None):
        return f"excluded (matches at {match.group()!r})"
    if candidate.problem is not None:
        return candidate.problem
    if included:
        return None if any(pattern.search(name) for pattern in included) else "not included"
    if owner not in base:
        return "head: outside the base model"
    if owner not in stack:
        return "outside the layer stack (embedding projection or pooler)"
    return "router: chooses among experts" if owner in routers else None


def _compiled(expressions: Sequence[str], candidates: list[_Candidate], role: str) -> list[Expression]:
    """Compile names or expressions, refusing any that names no Linear of the model."""
    patterns = []
    for expression in expressions:
        patterns.append(Expression(expression, role))
        if not any(patterns[-1].search(candidate.name) for candidate in candidates):
            raise ValueError(
                f"{role}: {expression!r} matches no Linear of the model; "
                f"its Linears are named like {candidates[0].name if candidates else '(it has none)'!r}"
            )
    return patterns


def base_prefix(model: nn.Module) -> str:
    base = getattr(model, "base_model", model)
    return next((name for name, module in model.named_modules() if module is base), "")


def _base_names(model: nn.Module) -> set[str]:
    prefix = base_prefix(model)
    return {
        name
        for name, _ in model.named_modules()
        if not prefix or name == prefix or name.startswith(prefix + ".")
    }


def _layer_stack(model: nn.Module) -> set[str]:
    """Names of all modules below an `nn.ModuleList` of the base model: the repeated layers."""
    base = _base_names(model)
    lists = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and name in base
    ]
    return {name for name in base if any(name.startswith(f"{parent}.") for parent in lists)}


def base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of the base model with their names, without those of its layer stack."""
    wanted = _base_names(model) - _layer_stack(model)
    return ((name, module) for name, module in model.named_modules() if name in wanted)


def _routers(model: nn.Module) -> set[str]:
    """Names of the modules that choose among experts or weigh them, and of all modules below these."""
    names = [name for name, _ in model.named_modules()]
    blocks = {name.rpartition(".")[0] for name in names if name.endswith(".experts")}

    def routes(name: str) -> bool:
        parent, _, own = name.rpartition(".")
        return "router" in own or (own.endswith("gate") and parent in blocks)

    chosen = {name for name in names if routes(name)}
    return {name for name in names if any(f"{name}.".startswith(f"{router}.") for router in chosen)}
