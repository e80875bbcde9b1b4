"""What a packed model takes, beside what it would take otherwise and what it must take at least."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from hf_sparse.checkpoint.container import PACKED, read_packed
from hf_sparse.checkpoint.entries import bit_patterns
from hf_sparse.quantization.layers import quantized_layers
from hf_sparse.targets import find_targets

_DENSE_BYTES = 4


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes, of a whole model and of its encoder: the weights that `find_targets` finds.

    `dense_bytes`, `encoder_dense_bytes`: everything at 4 bytes a number. `file_bytes`: the packed file.
    `encoder_bytes`: what positions and values of the encoder take in it, `scale_bytes`: what its scales take
    besides. `encoder_bound_bytes`: the entropy of the encoder's weights, see `entropy_bytes`.
    `counted_bytes`: its non-zero weights times their bits, without positions, scales, biases, embeddings, as
    Prune Once for All counts (Zafrir et al. 2021, section 5).
    """

    parameters: int
    encoder_weights: int
    encoder_nonzero: int
    dense_bytes: int
    encoder_dense_bytes: int
    file_bytes: int
    encoder_bytes: int
    scale_bytes: int
    encoder_bound_bytes: float
    counted_bytes: float

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than the dense model."""
        return self.dense_bytes / self.file_bytes

    @property
    def encoder_ratio(self) -> float:
        """The same of the encoder, with its scales."""
        return self.encoder_dense_bytes / (self.encoder_bytes + self.scale_bytes)

    @property
    def counted_ratio(self) -> float:
        """The compression that Prune Once for All states: 1 / (1 - sparsity) * 32 / bits."""
        return self.encoder_dense_bytes / self.counted_bytes if self.counted_bytes else float("inf")

    @property
    def over_bound(self) -> float:
        """What the encoder takes, as a multiple of its entropy."""
        return self.encoder_bytes / self.encoder_bound_bytes if self.encoder_bound_bytes else float("inf")


def entropy_bytes(words: np.ndarray) -> float:
    """Return the least that integers take if each is coded by itself, with its place, in bytes.

    Of n integers, k of them not zero: n H(k / n) + k H(byte of those), in bits, the latter for each of the
    bytes of an integer; H with the frequencies of this very tensor (Shannon 1948), taken to be known.
    """
    flat = words.reshape(-1)
    kept = flat[np.flatnonzero(flat)]
    planes = kept.view(np.uint8).reshape(len(kept), flat.itemsize).T
    bits = _entropy_bits(np.array([flat.size - len(kept), len(kept)]))
    return (bits + sum(_entropy_bits(np.bincount(plane, minlength=1)) for plane in planes)) / 8


def _entropy_bits(counts: np.ndarray) -> float:
    """Return the entropy of as many symbols as there are counted."""
    seen = counts[counts > 0]
    return float(-(seen * np.log2(seen / counts.sum())).sum())


def measure_sizes(model: nn.Module, directory: str | Path) -> Sizes:
    """Measure a model and the packed file in a directory that was made of it, or that it was loaded from.

    Weights that are not quantized count the bits of their dtype. Raises as `read_packed` and
    `quantized_layers` do.
    """
    path, layers = Path(directory) / PACKED, quantized_layers(model)
    held = {entry.name: entry for entry, _ in read_packed(path)}
    nonzero = weights = 0
    bound = counted = 0.0
    names = set()
    for target in find_targets(model):
        name = target.name.rpartition("[")[0] or target.name
        layer = layers.get(name.removesuffix(".weight"))
        words = bit_patterns(target.weight) if layer is None else layer.codes.cpu().numpy()
        bits = 8 * words.itemsize if layer is None else layer.weights.bits
        kept = int(np.count_nonzero(words))
        names.add(name)
        weights += target.weight.numel()
        bound += entropy_bytes(words)
        nonzero += kept
        counted += kept * bits / 8
    numbers = sum(parameter.numel() for parameter in model.parameters())
    encoder = [held[name] for name in names]
    return Sizes(
        parameters=numbers,
        encoder_weights=weights,
        encoder_nonzero=nonzero,
        dense_bytes=_DENSE_BYTES * numbers,
        encoder_dense_bytes=_DENSE_BYTES * weights,
        file_bytes=path.stat().st_size,
        encoder_bytes=sum(entry.coding.length for entry in encoder),
        scale_bytes=sum(entry.quantization.scales.length for entry in encoder if entry.quantization),
        encoder_bound_bytes=bound,
        counted_bytes=counted,
    )
