"""Target weights that several processes share: whole matrices, and counts over all processes."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from hf_sparse.shards import Group
from hf_sparse.sparsity.numpy_ops import count_nonzero
from hf_sparse.targets import Target


def group_of(targets: Iterable[Target]) -> Group | None:
    """Return the processes among which targets are divided; None if this process holds them whole.

    Raises `ValueError` if two targets are divided among different processes.
    """
    first: tuple[str, Group] | None = None
    for target in targets:
        part = target.part
        if part is None:
            continue
        if first is None:
            first = target.name, part.group
        elif first[1] != part.group:
            raise ValueError(
                f"{first[0]} and {target.name} are divided among different groups of processes, so their "
                "entries cannot be ranked together; shard all layers over the same mesh"
            )
    return None if first is None else first[1]


def whole_weight(target: Target) -> Tensor:
    """Return the whole matrix (out, in) of a target; if processes share it, all of them must call this."""
    part, weight = target.part, target.weight.detach()
    return weight if part is None else part.gather(weight)


def count_filled(targets: Iterable[Target]) -> dict[str, int]:
    """Return how many entries of each whole target are not zero; all processes that share them must call."""
    chosen = list(targets)
    return total_counts({target.name: count_nonzero(target.weight.detach()) for target in chosen}, chosen)


def total_counts(counts: Mapping[str, int], targets: Iterable[Target]) -> dict[str, int]:
    """Return the sums, over all processes, of counts in what each of them holds of the targets."""
    chosen = list(targets)
    group, divided = group_of(chosen), {target.name: target.part for target in chosen}
    if group is None:
        return dict(counts)
    # What every process holds counts once.
    own = [count if divided[name] or group.rank == 0 else 0 for name, count in counts.items()]
    return dict(zip(counts, group.totals(own), strict=True))
