"""The size of a saved model, beside its dense size and the lower bound by entropy."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import nn

from hf_sparse.checkpoint.packed.entries import bit_patterns
from hf_sparse.checkpoint.packed.packed_file import PACKED, read_packed
from hf_sparse.checkpoint.saved_files import weight_files
from hf_sparse.quantization.convert import is_quantized
from hf_sparse.readers import parse_json
from hf_sparse.targets import Target, find_targets

_DENSE_BYTES = 4


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes of a model and of its encoder, the weights that `find_targets` returns.

    `dense_bytes`, `encoder_dense_bytes`: all numbers at 4 bytes. `file_bytes`: the files of the weights.
    `encoder_bytes`: positions and values of the encoder in them; `scale_bytes`: its scales.
    `encoder_bound_bytes`: the entropy of the encoder's weights, see `entropy_bytes`. `counted_bytes`: its
    non-zero weights times their bits, without positions, scales, biases, embeddings, as Prune Once for All
    counts (Zafrir et al. 2021, section 5).
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
        """How many times smaller the encoder is with its scales than the dense encoder."""
        taken = self.encoder_bytes + self.scale_bytes
        return self.encoder_dense_bytes / taken if taken else float("inf")

    @property
    def counted_ratio(self) -> float:
        """The compression ratio as Prune Once for All states it: 1 / (1 - sparsity) * 32 / bits."""
        return self.encoder_dense_bytes / self.counted_bytes if self.counted_bytes else float("inf")

    @property
    def over_bound(self) -> float:
        """The size of the encoder as a multiple of its entropy."""
        return self.encoder_bytes / self.encoder_bound_bytes if self.encoder_bound_bytes else float("inf")


def entropy_bytes(words: np.ndarray) -> float:
    """Return the lower bound in bytes for integers that are coded one by one, with their positions.

    For n integers, k of them non-zero, it is n H(k / n) + k H(byte) bits, the second term summed over the
    bytes of an integer; H is the entropy (Shannon 1948) of the frequencies in this tensor.
    """
    flat = words.reshape(-1)
    kept = flat[np.flatnonzero(flat)]
    planes = kept.view(np.uint8).reshape(len(kept), flat.itemsize).T
    bits = _entropy_bits(np.array([flat.size - len(kept), len(kept)]))
    return (bits + sum(_entropy_bits(np.bincount(plane, minlength=1)) for plane in planes)) / 8


def _entropy_bits(counts: np.ndarray) -> float:
    """Return the entropy in bits of all symbols together, of which `counts` has the frequencies."""
    seen = counts[counts > 0]
    return float(-(seen * np.log2(seen / counts.sum())).sum())


def measure_sizes(model: nn.Module, name_or_path: str | Path) -> Sizes:
    """Return the sizes of a model and of its files, in any of the formats.

    Weights that are not quantized count with the bits of their dtype. Raises as `weight_files` and
    `read_packed` do.
    """
    files, targets = weight_files(str(name_or_path)), list(find_targets(model))
    nonzero, bound, counted = 0, 0.0, 0.0
    for target in targets:
        words, bits = _words(target)
        kept = int(np.count_nonzero(words))
        bound += entropy_bytes(words)
        nonzero += kept
        counted += kept * bits / 8
    numbers = sum(parameter.numel() for parameter in model.parameters())
    weights = sum(target.weight.numel() for target in targets)
    values, scales = _stored(files, targets)
    return Sizes(
        parameters=numbers,
        encoder_weights=weights,
        encoder_nonzero=nonzero,
        dense_bytes=_DENSE_BYTES * numbers,
        encoder_dense_bytes=_DENSE_BYTES * weights,
        file_bytes=sum(file.stat().st_size for file in files),
        encoder_bytes=values,
        scale_bytes=scales,
        encoder_bound_bytes=bound,
        counted_bytes=counted,
    )


def _words(target: Target) -> tuple[np.ndarray, int]:
    """Return a weight as integers (the codes of a quantized one), and the bits of each."""
    if not is_quantized(target.module):
        words = bit_patterns(target.weight)
        return words, 8 * words.itemsize
    scheme, weight = target.module.quantization.weights, target.weight.detach()
    return scheme.codes(weight, scheme.scales(weight)).cpu().numpy(), scheme.bits


def _stored(files: list[Path], targets: list[Target]) -> tuple[int, int]:
    """Return the bytes of values and of scales of targets in files."""
    if files[0].name == PACKED:
        held = {entry.name: entry for entry, _ in read_packed(files[0])}
        # All experts of a layer are one parameter.
        encoder = [
            held[name] for name in {target.name.rpartition("[")[0] or target.name for target in targets}
        ]
        scales = sum(entry.quantization.scales.length for entry in encoder if entry.quantization)
        return sum(entry.coding.length for entry in encoder), scales
    lengths = _tensor_bytes(file for file in files if file.suffix == ".safetensors")
    if not any(name.endswith(".weight_scale") for name in lengths):
        return sum(target.weight.nbytes for target in targets), 0
    scaled = {name.removesuffix("weight_scale") for name in lengths if name.endswith(".weight_scale")}
    modules = {target.name.removesuffix("weight") for target in targets} & scaled
    # transformers renames the weights of some models on disk; the scales in the file show what is quantized.
    modules = modules or scaled
    owned = {
        name: length
        for name, length in lengths.items()
        if f"{name.rpartition('.')[0]}." in modules and not name.endswith(".bias")
    }
    values = sum(length for name, length in owned.items() if name.endswith((".weight", ".weight_packed")))
    return values, sum(owned.values()) - values


def _tensor_bytes(files: Iterable[Path]) -> dict[str, int]:
    """Return the length of each tensor in safetensors files, from their headers."""
    lengths = {}
    for path in files:
        try:
            with safe_open(path, "pt"):
                # Opening checks the header, which is read again below.
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{path} is damaged ({error}); fetch it again, or save the model again"
            ) from error
        with open(path, "rb") as file:
            header = parse_json(file.read(struct.unpack("<Q", file.read(8))[0]))
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            begin, end = tensor["data_offsets"]
            lengths[name] = end - begin
    return lengths
