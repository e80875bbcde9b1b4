"""Which weights of a model a recipe means: the Linears of its layer stack."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Target:
    """A weight that can be pruned; `weight` is (out, in), `name` its key in the state dict."""

    name: str
    module: nn.Linear

    @property
    def weight(self) -> Tensor:
        return self.module.weight


@dataclass(frozen=True)
class LeftOut:
    """A Linear that is not a target, with the reason."""

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


def find_targets(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Targets:
    """Find the weights to prune, each once, with the reason for every Linear that is left out.

    By default these are the Linears in the layer stack (an `nn.ModuleList`) of `model.base_model`. `include`
    chooses among all Linears of the model instead, `exclude` removes from the choice; both hold module names
    or regular expressions searched in them. Raises `ValueError` if an expression is malformed or matches no
    Linear, or if nothing is left to prune.
    """
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    included, excluded = _compiled(include, linears, "include"), _compiled(exclude, linears, "exclude")
    stack, base = _layer_stack(model), _base_names(model)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}

    seen: dict[int, str] = {}
    found, left_out = [], []
    for name, module in linears:
        reason = _reason_against(name, module, stack, base, embeddings, included, excluded)
        if reason is None and id(module.weight) in seen:
            reason = f"shares its weight with {seen[id(module.weight)]}"
        if reason is not None:
            left_out.append(LeftOut(name, reason))
            continue
        seen[id(module.weight)] = name
        found.append(Target(f"{name}.weight" if name else "weight", module))

    targets = Targets(tuple(found), tuple(left_out))
    if not found:
        raise ValueError(f"{type(model).__name__} has nothing to prune; name Linears with include. {targets}")
    return targets


def _reason_against(
    name: str,
    module: nn.Linear,
    stack: set[str],
    base: set[str],
    embeddings: set[int],
    included: list[re.Pattern[str]],
    excluded: list[re.Pattern[str]],
) -> str | None:
    if id(module.weight) in embeddings:
        return "tied to an embedding"
    if match := next(filter(None, (pattern.search(name) for pattern in excluded)), None):
        return f"excluded (matches at {match.group()!r})"
    if included:
        return None if any(pattern.search(name) for pattern in included) else "not included"
    if name not in base:
        return "head: outside the base model"
    return None if name in stack else "outside the layer stack (embedding projection or pooler)"


def _compiled(
    expressions: Sequence[str], linears: list[tuple[str, nn.Linear]], role: str
) -> list[re.Pattern[str]]:
    """Compile names or expressions, refusing any that names no Linear of the model."""
    patterns = []
    for expression in expressions:
        try:
            patterns.append(re.compile(expression))
        except re.error as error:
            raise ValueError(f"{role}: {expression!r} is not a regular expression: {error}") from error
        if not any(patterns[-1].search(name) for name, _ in linears):
            raise ValueError(
                f"{role}: {expression!r} matches no Linear of the model; "
                f"its Linears are named like {linears[0][0] if linears else '(it has none)'!r}"
            )
    return patterns


def _base_prefix(model: nn.Module) -> str:
    base = getattr(model, "base_model", model)
    return next((name for name, module in model.named_modules() if module is base), "")


def _base_names(model: nn.Module) -> set[str]:
    prefix = _base_prefix(model)
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
