"""Which weights of a model are pruned: by default the Linears of its layer stack."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_sparse.expressions import Expression
from hf_sparse.modules import NamedModule, base_names, is_skeleton, layer_stack, named_modules, routers
from hf_sparse.shards import Part, as_shared, matrix_of, part_of, refused_placements

# Bytes of the smallest floats that can be trained.
_HALF = 2


@dataclass(frozen=True)
class Target:
    """A weight that can be pruned, however its module stores it.

    `name` is the key of its parameter in the state dict; with the expert's number in brackets if the
    parameter holds one matrix per expert. `transposed`: the parameter is (in, out).
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
        """The logical matrix, (out, in), as a view of the parameter; under FSDP2 what of it is here."""
        return self.view(self.parameter)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the whole matrix, (out, in)."""
        *_, rows, columns = self.parameter.shape
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def part(self) -> Part | None:
        """Which part of the matrix each process holds; None if this one holds all of it."""
        return part_of(self.parameter, self.expert, self.transposed)

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias of the module."""
        return self.module._parameters.get("bias")

    @property
    def gradient(self) -> Tensor | None:
        """The gradient of the matrix, (out, in), as a view of the parameter's."""
        gradient = self.parameter.grad
        return None if gradient is None else self.view(gradient)

    def view(self, values: Tensor) -> Tensor:
        """Return this target's (out, in) part of a tensor shaped like its parameter, or like what is here."""
        return matrix_of(self.parameter, values, self.expert, self.transposed)


class Obstacle(Enum):
    """Why a weight cannot be a target although its place in the model is right."""

    MADE_ANEW = "recomputed in every forward pass, as by torch.nn.utils.prune or weight_norm"
    OUT_OF_REACH = "out of reach"
    DIVIDED = "divided among processes in another way than by FSDP2"


@dataclass(frozen=True)
class LeftOut:
    """A Linear or similar module that is not a target, and why; `obstacle` if nothing else excludes it."""

    name: str
    reason: str
    obstacle: Obstacle | None = None


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
        return {target.name: target.shape for target in self.found}

    def __str__(self) -> str:
        total = sum(rows * columns for rows, columns in self.shapes.values())
        lines = [f"{len(self.found)} targets, {total:,} weights"]
        lines += [f"  {name}  {rows} x {columns}" for name, (rows, columns) in self.shapes.items()]
        lines += [f"{len(self.left_out)} Linears left out"] if self.left_out else []
        lines += [f"  {entry.name}: {entry.reason}" for entry in self.left_out]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Candidate:
    """A parameter that multiplies activations, and its layout; `problem` says why it cannot be pruned.

    `adapter`: whether it belongs to an adapter and not to the model.
    """

    name: str
    module: nn.Module
    parameter_name: str = "weight"
    transposed: bool = False
    problem: str | None = None
    obstacle: Obstacle | None = None
    adapter: bool = False

    @property
    def parameter(self) -> nn.Parameter | None:
        return self.module._parameters.get(self.parameter_name)

    def targets(self) -> list[Target]:
        key = self.name if self.parameter_name != "weight" else f"{self.name}.weight".lstrip(".")
        if self.parameter is None or self.parameter.dim() == 2:
            return [Target(key, self.module, self.parameter_name, self.transposed)]
        return [
            Target(f"{key}[{expert}]", self.module, self.parameter_name, self.transposed, expert)
            for expert in range(len(self.parameter))
        ]


def find_targets(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Targets:
    """Find the weights to prune, each once, with the reason for every Linear that is left out.

    By default these are the Linears in the layer stack (an `nn.ModuleList`) of `model.base_model`, including
    the `Conv1D` of GPT-2 and the experts of mixtures, without the routers that choose among experts. Adapters
    are never targets, and neither are weights that cannot be written to: those that are recomputed in every
    forward pass, and those that are not plain tensors of floats, whole or divided by FSDP2. Weights that
    adapters wrap, or that lie in a wrapper of the whole model, have the names that they are saved under.

    Args:
        model: any model; if all of it is on the meta device, weights are found by their shapes.
        include: names or regular expressions, searched in the names of all Linears, to choose by instead.
        exclude: the same, of weights to leave out.

    Returns:
        The targets in the order of the model's modules.

    Raises:
        ValueError: if an expression is malformed or matches no Linear, or if nothing is left to prune.
    """
    for role, expressions in (("include", include), ("exclude", exclude)):
        if isinstance(expressions, str):
            raise ValueError(f"{role} is a list of names, got {expressions!r}; write [{expressions!r}]")
    candidates = list(_candidates(model))
    included, excluded = _compiled(include, candidates, "include"), _compiled(exclude, candidates, "exclude")
    targets = _sorted(model, candidates, included, excluded)
    if not targets.found:
        raise ValueError(f"{type(model).__name__} has nothing to prune; name Linears with include. {targets}")
    return targets


def module_of(name: str) -> str:
    """Return the name of a target's module, or of the 3-D parameter that it is a part of."""
    return name.removesuffix(".weight").partition("[")[0]


def every_weight(model: nn.Module) -> Targets:
    """Find all weights that could be pruned, anywhere in the model; the result may be empty."""
    return _sorted(model, list(_candidates(model)), [Expression("", "include")], [])


def _sorted(
    model: nn.Module,
    candidates: list[_Candidate],
    included: list[Expression],
    excluded: list[Expression],
) -> Targets:
    stack, base, choosing = layer_stack(model), base_names(model), routers(model)
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
    embeddings = {id(module._parameters["weight"]) for module in tables if "weight" in module._parameters}

    seen: dict[int, str] = {}
    found, left_out = [], []
    for candidate in candidates:
        name, key = candidate.name, id(candidate.parameter)
        reason = _reason_against(candidate, stack, base, choosing, embeddings, included, excluded)
        obstacle = candidate.obstacle if reason is None else None
        reason = reason or candidate.problem
        if reason is None and key in seen:
            reason = f"shares its weight with {seen[key]}"
        if reason is not None:
            left_out.append(LeftOut(name, reason, obstacle))
            continue
        seen[key] = name
        found += candidate.targets()
    return Targets(tuple(found), tuple(left_out))


def _candidates(model: nn.Module) -> Iterator[_Candidate]:
    stack, skeleton = layer_stack(model), is_skeleton(model)
    for entry in named_modules(model):
        for candidate in _candidates_in(entry, stack):
            yield _with_obstacle(candidate, skeleton)


def _candidates_in(entry: NamedModule, stack: set[str]) -> Iterator[_Candidate]:
    name, module = entry.name, entry.module
    if isinstance(module, nn.Linear | Conv1D):
        yield _Candidate(name, module, transposed=isinstance(module, Conv1D), adapter=entry.adapter)
    elif name in stack and not isinstance(module, nn.Conv1d) and not entry.adapter:
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 3:
                yield _experts(f"{name}.{parameter_name}", module, parameter_name)


def _experts(name: str, module: nn.Module, parameter_name: str) -> _Candidate:
    # Set by transformers on every mixture of experts that it can multiply.
    transposed = getattr(module, "is_transposed", None)
    problem = "3-D parameter of unknown orientation" if transposed is None else None
    return _Candidate(name, module, parameter_name, bool(transposed), problem)


def _with_obstacle(candidate: _Candidate, skeleton: bool) -> _Candidate:
    """Return a candidate with the reason why its weight cannot be written to, if it cannot."""
    parameter, module, name = candidate.parameter, candidate.module, candidate.parameter_name
    obstacle = Obstacle.OUT_OF_REACH
    if parameter is None:
        remade = name in getattr(module, "parametrizations", ()) or torch.is_tensor(
            getattr(module, name, None)
        )
        obstacle = Obstacle.MADE_ANEW if remade else obstacle
        problem = obstacle.value if remade else f"lacks {name}: it is kept in another form"
    elif (placements := refused_placements(parameter)) is not None:
        obstacle, problem = Obstacle.DIVIDED, f"is a DTensor with placements {placements}"
    elif type(parameter) is not nn.Parameter and as_shared(parameter) is None:
        problem = f"is a {type(parameter).__name__}, not a plain tensor"
    elif parameter.is_meta and not skeleton:
        problem = "is on meta: its values are elsewhere"
    elif not parameter.is_floating_point() or parameter.dtype.itemsize < _HALF:
        problem = f"is {parameter.dtype}, not float32 or a half of it"
    elif parameter.dim() not in (2, 3):
        problem = f"has {parameter.dim()} dimensions: its matrix is elsewhere"
    else:
        return candidate
    return replace(candidate, problem=problem, obstacle=obstacle)


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
    if candidate.adapter:
        return "part of an adapter"
    if candidate.parameter is not None and id(candidate.parameter) in embeddings:
        return "tied to an embedding"
    if match := next(filter(None, (pattern.search(name) for pattern in excluded)), None):
        return f"excluded (matches at {match.group()!r})"
    if included:
        return None if any(pattern.search(name) for pattern in included) else "not included"
    if owner not in base:
        return "head: outside the base model"
    if owner not in stack:
        return "outside the layer stack (embedding projection or pooler)"
    return "router: chooses among experts" if owner in routers else None


def _compiled(expressions: Sequence[str], candidates: list[_Candidate], role: str) -> list[Expression]:
    """Compile names or expressions; raise `ValueError` for one that matches no Linear of the model."""
    patterns = []
    for expression in expressions:
        patterns.append(Expression(expression, role))
        if not any(patterns[-1].search(candidate.name) for candidate in candidates):
            raise ValueError(
                f"{role}: {expression!r} matches no Linear of the model; "
                f"its Linears are named like {candidates[0].name if candidates else '(it has none)'!r}"
            )
    return patterns
