"""Whether all processes have the same masks, where they have the same weights."""

import hashlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch.distributed
from torch import Tensor

from hf_sparse.shards import Part
from hf_sparse.sparsity.masks import Masks


def require_same_masks(masks: Masks) -> None:
    """Raise `RuntimeError`, on every process, if processes have other masks for weights that they all have.

    Digests of the masks are compared, layer by layer: of whole masks under DDP, of the same part under FSDP2
    with replicas. All processes of a run must call this; a single process returns at once.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    own = {target.name: (_place(target.part), _digest(masks[target.name])) for target in masks.targets}
    gathered: list[dict[str, tuple[tuple[int, ...], bytes]]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    if len({tuple(found) for found in gathered}) > 1:
        raise RuntimeError(
            f"processes prune other weights: {_listed([len(found) for found in gathered])} targets; start "
            "every process with the same recipe, model and versions"
        )
    for name in own:
        for place in {found[name][0] for found in gathered}:
            alike = [rank for rank, found in enumerate(gathered) if found[name][0] == place]
            digests = {rank: gathered[rank][name][1] for rank in alike}
            usual = Counter(digests.values()).most_common(1)[0][0]
            if other := [rank for rank in alike if digests[rank] != usual]:
                raise RuntimeError(
                    f"the mask of {name} differs between processes: rank {_listed(other)} from rank "
                    f"{_listed(rank for rank in alike if rank not in other)}; their weights or versions "
                    "differ, so resume from the last checkpoint, with the same software on every machine"
                )


def _place(part: Part | None) -> tuple[int, ...]:
    return () if part is None else (part.start, part.stop)


def _digest(mask: Tensor) -> bytes:
    return hashlib.blake2b(np.packbits(mask.cpu().numpy()).tobytes(), digest_size=8).digest()


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
