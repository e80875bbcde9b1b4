"""Masks: which entries of the target weights are kept, at one bit an entry."""

import hashlib
import zlib
from collections.abc import Mapping
from math import prod

import numpy as np
import torch
from torch import Tensor

from hf_sparse.shards import local_shape
from hf_sparse.sparsity.numpy_ops import any_greater, parallel_map
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.sharded.weights import group_of, total_counts, whole_weight
from hf_sparse.sparsity.streamed.mask_storage import BitMask, as_integers
from hf_sparse.targets import Target, Targets


class Masks:
    """The masks of a model's targets, applied in place to weights, gradients and optimizer state.

    A mask has one bit an entry, and takes no memory while all are kept. Until masks are set, the targets may
    be on the meta device. Removed entries are exact zeros of the weight; not every zero is a removed entry.

    Args:
        targets: the weights to mask; all entries are kept at first.
    """

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        self._target = {target.name: target for target in targets}
        self._keep = {name: BitMask(_local(target)) for name, target in self._target.items()}
        self._parts = {target.name: target.part for target in targets}
        # Kept, since a parameter is empty between the steps of ZeRO-3.
        self._shapes = targets.shapes
        # What is removed here of each weight, and in all of it: the same but under FSDP2.
        self._removed: dict[str, int] = dict.fromkeys(self._keep, 0)
        self._counts = self._removed if group_of(targets) is None else dict(self._removed)

    def __getitem__(self, name: str) -> Tensor:
        """Return one mask as booleans, (out, in), True where kept; under FSDP2 the part that is here."""
        return self._keep[name].unpack(self._target[name].parameter.device)

    def whole(self, name: str) -> Tensor:
        """Return one whole mask; if processes share its weight, all of them must call this."""
        part = self._parts[name]
        return self[name] if part is None else part.gather(self[name])

    def shape(self, name: str) -> tuple[int, int]:
        """Return the shape of one mask, (out, in); under FSDP2 of the part of it that is here."""
        return self._keep[name].shape

    def kept_blocks(self, name: str, pattern: Block) -> Tensor:
        """Return which blocks are kept, (out / rows, in / columns), judged by the first entry of each."""
        return self._keep[name].first_of(pattern.rows, pattern.columns)

    def set(self, name: str, keep: Tensor) -> None:
        """Replace one mask.

        Args:
            name: Name of the target.
            keep: Booleans of the weight's shape, (out, in), True where kept.

        Raises:
            ValueError: `keep` has another shape, or holds other values than booleans.
        """
        if keep.shape != self._keep[name].shape:
            raise ValueError(
                f"the mask of {name} has shape {tuple(keep.shape)}, its weight {self._keep[name].shape}"
            )
        if keep.dtype != torch.bool:
            raise ValueError(
                f"the mask of {name} holds {keep.dtype}, and a mask holds torch.bool, True where a weight is "
                "kept; compare with 0 first (keep != 0)"
            )
        self._removed[name] = self._keep[name].set(keep, self._target[name].weight)

    def set_bits(self, name: str, bits: np.ndarray, removed: int) -> None:
        """Replace the mask of a weight that lies in row-major order by packed bits; `removed` are not set."""
        self._keep[name].set_bits(bits)
        self._removed[name] = removed

    def covers(self, name: str, blocks: Tensor, pattern: Block) -> bool:
        """Return whether the blocks to keep, flat booleans, are all kept already."""
        if not self.removed(name):
            return True
        kept = self.kept_blocks(name, pattern)
        return not any_greater(blocks.view(kept.shape).view(torch.uint8), kept.view(torch.uint8))

    def covers_bits(self, name: str, bits: np.ndarray) -> bool:
        """Return whether the weights to keep, as packed bits in row-major order, are all kept already."""
        return not self._keep[name].revives(bits)

    def target(self, name: str) -> Target:
        """Return the weight that a mask belongs to."""
        return self._target[name]

    def bits(self, name: str) -> BitMask:
        """Return the mask of a weight itself."""
        return self._keep[name]

    def lock_zeros(self, blocks: Mapping[str, Block]) -> None:
        """Remove exactly the blocks that are all zeros now, in the weights that `blocks` names."""
        for target in self.targets:
            if (block := blocks.get(target.name)) is not None:
                part, filled = target.part, block.expand(block.filled(whole_weight(target)))
                self.set(target.name, filled if part is None else part.cut(filled))
        self.count_removed()

    def removed(self, name: str) -> int:
        """Return how many entries of a weight are removed, on all processes."""
        return self._counts[name]

    def count_removed(self) -> None:
        """Add up what is removed over all processes, after masks were set; all of them must call this."""
        if self._counts is not self._removed:
            self._counts = total_counts(self._removed, self.targets)

    @property
    def sparsity(self) -> float:
        """The share of all target weights that is removed, in [0, 1]."""
        return sum(self._counts.values()) / sum(map(prod, self._shapes.values()))

    @property
    def nbytes(self) -> int:
        """The memory that the masks take once entries of every weight are removed, in bytes."""
        return sum(mask.nbytes for mask in self._keep.values())

    def apply_to_weights(self) -> None:
        """Set removed weights to zero."""
        self._apply([(target.weight.detach(), self._keep[target.name]) for target in self.targets])

    def take_removed(self, values: Mapping[str, Tensor]) -> None:
        """Move removed weights into tensors like the weights, by name; all other entries become zero."""
        parallel_map(
            lambda target: self._keep[target.name].take(target.weight.detach(), values[target.name]),
            self.targets,
        )

    def fill_removed(self, values: Mapping[str, Tensor]) -> None:
        """Put the values that `take_removed` moved away back into the weights."""
        parallel_map(lambda target: _fill(target.weight.detach(), values[target.name]), self.targets)

    def apply_to_gradients(self) -> None:
        """Set the gradients of removed weights to zero, infinite and NaN ones too."""
        gradients = [(target.gradient, self._keep[target.name]) for target in self.targets]
        self._apply([(gradient, keep) for gradient, keep in gradients if gradient is not None])

    def apply_to_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the optimizer state of removed weights to zero: old momentum would move them off zero again."""
        shapes = {t.name: (t.parameter.shape, local_shape(t.parameter)) for t in self.targets}
        state = [
            (target.view(value), self._keep[target.name])
            for target in self.targets
            for value in optimizer.state.get(target.parameter, {}).values()
            if torch.is_tensor(value) and value.is_floating_point() and value.shape in shapes[target.name]
        ]
        self._apply(state)

    def nonzero_removed(self) -> dict[str, int]:
        """Count, for each weight that has any, the removed entries that are not zero."""
        chosen = [target for target in self.targets if self._counts[target.name]]
        counts = {
            target.name: self._keep[target.name].count_removed(target.weight.detach()) for target in chosen
        }
        return {name: count for name, count in total_counts(counts, chosen).items() if count}

    def digest(self, names: Mapping[str, str] | None = None) -> str:
        """Return a SHA-256 of all masks, or of those that `names` gives another name.

        If processes share the weights, all of them must call this, as well as `pack`.
        """
        names = dict(zip(self._keep, self._keep, strict=True)) if names is None else names
        digest = hashlib.sha256()
        for name in sorted(names):
            digest.update(names[name].encode())
            digest.update(np.packbits(self.whole(name).cpu().numpy()).tobytes())
        return digest.hexdigest()

    def pack(self) -> dict[str, Tensor]:
        """Return the masks as uint8: one bit per weight in row-major order, by zlib if that is smaller."""
        return {name: _compressed(np.packbits(self.whole(name).cpu().numpy())) for name in self._keep}

    def unpack(self, packed: Mapping[str, Tensor]) -> None:
        """Take over masks from `pack`; raise `ValueError` if they are of other weights."""
        if set(packed) != set(self._keep):
            other = sorted(set(packed) ^ set(self._keep))
            raise ValueError(
                f"the stored masks and the model's targets differ in {len(other)} names, such as {other[0]}; "
                "load them into the model they were made for"
            )
        for name, values in packed.items():
            rows, columns = self._shapes[name]
            fits = values.dtype == torch.uint8 and values.dim() == 1
            bits = _bits(values.cpu().numpy(), -(-rows * columns // 8)) if fits else None
            if bits is None:
                raise ValueError(
                    f"the stored mask of {name} ({values.numel()} bytes) is not one of {(rows, columns)}; "
                    "load it into the model it was made for"
                )
            keep = np.unpackbits(bits, count=rows * columns).reshape(rows, columns)
            mask, part = torch.from_numpy(keep).view(torch.bool), self._parts[name]
            self.set(name, mask if part is None else part.cut(mask))
            self._counts[name] = keep.size - int(np.count_nonzero(keep))

    def _apply(self, pairs: list[tuple[Tensor, BitMask]]) -> None:
        parallel_map(lambda pair: pair[1].clear(pair[0]), pairs)


def _local(target: Target) -> tuple[int, int]:
    """Return the shape of the part of a weight that is here, (out, in)."""
    rows, columns = target.weight.shape
    return rows, columns


def _compressed(bits: np.ndarray) -> Tensor:
    # Level 1: the bits are nearly random, so higher levels cost time and gain nothing.
    content = min(bytearray(bits), bytearray(zlib.compress(bits.data, 1)), key=len)
    return torch.frombuffer(content, dtype=torch.uint8)


def _bits(content: np.ndarray, size: int) -> np.ndarray | None:
    """Return packed bits as they are or decompressed; None if they are not `size` bytes."""
    if content.size == size:
        return content
    machine = zlib.decompressobj()
    try:
        # One more byte than there should be: a longer stream is noticed, and never decoded further.
        bits = np.frombuffer(machine.decompress(content.tobytes(), size + 1), np.uint8)
    except zlib.error:
        return None
    return bits if bits.size == size and machine.eof and not machine.unused_data else None


def _fill(weight: Tensor, aside: Tensor) -> None:
    values, other = as_integers(weight), as_integers(aside)
    if weight.device.type == "cpu":
        np.bitwise_or(values.numpy(), other.numpy(), out=values.numpy())
    else:
        values.bitwise_or_(other)
