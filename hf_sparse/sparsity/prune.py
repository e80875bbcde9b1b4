"""Pruning in one shot, without any training loop of ours."""

from collections.abc import Mapping, Sequence

from torch import nn

from hf_sparse.sparsity.layout import Layout, Override
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.sparsity.update import grow
from hf_sparse.targets import find_targets


def prune(
    model: nn.Module,
    sparsity: float,
    pattern: str = "unstructured",
    method: str = "magnitude",
    allocation: str = "uniform",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    floor: float = 0.01,
    overrides: Mapping[str, float] | None = None,
) -> Masks:
    """Remove weights of a model at once, in place, and return the masks that keep them removed.

    `sparsity` is the share of zeros in [0, 1) among the weights of `find_targets(model, include, exclude)`;
    `overrides` maps regular expressions for their names to another one. In a training loop of your own, call
    `masks.apply_to_gradients()` before the optimizer's step and `masks.apply_to_weights()` after it. Zeros
    that are there already count. Raises `ValueError` for what a recipe would refuse too.
    """
    parsed = parse_pattern(pattern)
    for share in (sparsity, floor, *(overrides or {}).values()):
        if not 0 <= share < 1:
            raise ValueError(f"a sparsity is the share of weights to remove, in [0, 1), got {share}")
    if parsed.share is not None and abs(parsed.share - sparsity) > 1e-3:
        raise ValueError(f"pattern {pattern} removes {parsed.share:.4g} of every weight, got {sparsity}")
    score = METHODS[method].score if method in METHODS else None
    if score is None:
        scoring = sorted(name for name, known in METHODS.items() if known.score)
        raise ValueError(f"method {method!r} does not rank weights; choose one of {', '.join(scoring)}")
    masks = Masks(find_targets(model, include, exclude))
    own = [Override(expression, sparsity=share) for expression, share in (overrides or {}).items()]
    layout = Layout(masks.targets, parsed, allocation, floor, own)
    grow(masks, layout.budgets(lambda final: sparsity if final is None else final), score, layout.blocks)
    masks.apply_to_weights()
    return masks
