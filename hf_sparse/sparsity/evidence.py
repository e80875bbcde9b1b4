"""Which weights of a model were pruned, judged by their zeros."""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from hf_sparse.sparsity.inspection import inspect_weights, place_of
from hf_sparse.sparsity.numpy_ops import count_nonzero
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED
from hf_sparse.sparsity.sharded.weights import count_filled, whole_weight
from hf_sparse.targets import Target, Targets

# Weights with at least these shares of zeros were pruned: zeros anywhere, zeros in a pattern. Training leaves
# next to none by chance, rounding to 8 bits a few in a hundred, to 4 bits two in ten.
ANYWHERE, IN_PATTERN = 0.3, 0.1
# How many rows, and how many entries of each, are searched for signs of rounding.
_ROWS, _ENTRIES = 16, 32
# Rounding makes about as many zeros as values of the smallest size; where scales differ, some are missed.
_OUTNUMBERED = 4


def pruned_weights(targets: Targets) -> tuple[str, ...]:
    """Return the names of the weights that were pruned; an empty tuple for a dense model.

    Weights of one kind, in different layers or of different experts, are judged together. A kind was pruned
    if 30 % of it are zeros, or 10 % in a pattern. If that holds for half of all weights, all others count as
    pruned too. Three things prove nothing: kinds that are zero or diagonal in every layer, as new ones are;
    rows or columns of zeros at the end, which are padding; the number of zeros among weights that were
    rounded to a few values. All processes that share the weights must call this.
    """
    every: dict[str | tuple[str, str], list[Target]] = {}
    for target in targets:
        place = place_of(target.name)
        every.setdefault((place.stack, place.kind) if place else target.name, []).append(target)
    filled = count_filled(targets)
    kinds = [kind for kind in every.values() if not all(_is_new(target, filled) for target in kind)]
    pruned = [kind for kind in kinds if _is_pruned(kind, filled)]
    if 2 * _size(pruned) >= _size(kinds):
        pruned = kinds if pruned else []
    chosen = {target.name for kind in pruned for target in kind}
    return tuple(name for name in targets.names if name in chosen)


def _is_pruned(kind: Sequence[Target], filled: Mapping[str, int]) -> bool:
    if _share(_size([kind]), sum(filled[target.name] for target in kind)) < IN_PATTERN:
        return False
    counts = [_count_without_padding(whole_weight(target)) for target in kind]
    share = _share(*map(sum, zip(*counts, strict=True)))
    if share >= ANYWHERE and not all(_may_be_rounded(whole_weight(target)) for target in kind):
        return True
    patterns = [weight.pattern for weight in inspect_weights(Targets(tuple(kind), ())) if weight.zeros]
    found = [pattern for pattern in patterns if pattern != str(UNSTRUCTURED)]
    return share >= IN_PATTERN and 2 * len(found) > len(patterns)


def _size(kinds: Sequence[Sequence[Target]]) -> int:
    return sum(prod(target.shape) for kind in kinds for target in kind)


def _share(size: int, filled: int) -> float:
    return 1 - filled / size if size else 0.0


def _is_new(target: Target, filled: Mapping[str, int]) -> bool:
    """Return whether a weight is zero or diagonal."""
    count = filled[target.name]
    if count > min(target.shape):
        return False
    return count == int(torch.count_nonzero(whole_weight(target).diagonal()))


def _count_without_padding(weight: Tensor) -> tuple[int, int]:
    """Return the size of a weight without its padding, and how many entries are not zero."""
    bare = _without_padding(weight)
    return bare.numel(), count_nonzero(bare)


def _without_padding(weight: Tensor) -> Tensor:
    """Return a weight without the rows and columns of zeros at its end; a weight of zeros as it is."""
    filled = [torch.count_nonzero(weight, dim).nonzero() for dim in (1, 0)]
    if not len(filled[0]):
        return weight
    rows, columns = (int(places[-1]) + 1 for places in filled)
    return weight[:rows, :columns]


def _may_be_rounded(weight: Tensor) -> bool:
    """Return whether rounding explains the zeros: few values, and few zeros beside the smallest values."""
    verdicts = []
    for row in weight[:: max(len(weight) // _ROWS, 1)]:
        places = torch.nonzero(row).flatten()[:_ENTRIES]
        if len(places) < _ENTRIES // 2:
            continue
        values, counts = row[places].abs().unique(return_counts=True)
        zeros = int(places[-1]) + 1 - len(places)
        # Rounding to three values, in groups, may leave any share of zeros.
        many = len(values) > _ENTRIES // 8 and zeros > _OUTNUMBERED * int(counts[0])
        verdicts.append(2 * len(values) <= len(places) and not many)
    return 2 * sum(verdicts) > len(verdicts)
