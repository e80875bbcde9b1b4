"""Conversion of single tensors and quantized weights to entries of a packed file, and back."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from hf_sparse.checkpoint.packed.codec import (
    Coding,
    check_codes,
    check_words,
    pack_codes,
    pack_words,
    unpack_words,
)
from hf_sparse.checkpoint.packed.codec import unpack_codes as decode
from hf_sparse.checkpoint.packed.packed_file import DTYPES, FLOATS, Entry, Quantization
from hf_sparse.quantization.convert import as_quantized, attach
from hf_sparse.quantization.fake_layers import Phase
from hf_sparse.quantization.quantized_layers import QuantizedLayer
from hf_sparse.quantization.weights import WeightScheme, read_weight_scheme
from hf_sparse.targets import Target

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SCALE_BYTES = 4
_WEIGHT = ".weight"


def bit_patterns(tensor: Tensor) -> np.ndarray:
    """Return the numbers of a tensor, of one of DTYPES, as integers with the same bits, flat."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(_WORDS[tensor.element_size()]).numpy()


def pack_tensor(name: str, tensor: Tensor) -> tuple[Entry, bytes]:
    """Code a tensor of one of DTYPES bit for bit."""
    coding, content = pack_words(bit_patterns(tensor))
    return _entry(name, tensor, coding, content, None)


def pack_layer(
    name: str, weight: Tensor, layer: QuantizedLayer, observer: str, input_range: tuple[float, float] | None
) -> tuple[Entry, bytes]:
    """Code the weight of a layer as its codes and scales."""
    coding, codes = pack_codes(layer.codes.cpu().numpy(), layer.weights.highest)
    scales, content = pack_words(bit_patterns(layer.scales))
    quantization = Quantization(
        str(layer.weights), layer.activations, observer, layer.transposed, input_range, scales
    )
    return _entry(name, weight, coding, codes + content, quantization)


def check(entry: Entry) -> None:
    """Raise `ValueError` unless dtype, shape, scheme and codings of an entry fit each other.

    Allocates no memory, so that a damaged entry cannot ask for much.
    """
    dtype, numbers = DTYPES[entry.dtype], math.prod(entry.shape)
    if entry.quantization is None:
        check_words(entry.coding, numbers, dtype.itemsize)
        return
    if dtype not in FLOATS or len(entry.shape) != 2:
        raise ValueError(f"a tensor of {entry.dtype} in {len(entry.shape)} dimensions cannot be quantized")
    scheme, matrix = _matrix(entry)
    scheme.check(entry.name, matrix)
    check_codes(entry.coding, numbers, scheme.highest)
    check_words(quantization_of(entry).scales, math.prod(_scales(scheme, matrix)), _SCALE_BYTES)


def unpack(entry: Entry, content: memoryview) -> Tensor:
    """Return the tensor of an entry that has been checked; a quantized one is restored from its codes.

    Raises `ValueError` if the content is damaged.
    """
    dtype, numbers = DTYPES[entry.dtype], math.prod(entry.shape)
    if entry.quantization is None:
        words = unpack_words(entry.coding, content, numbers, dtype.itemsize)
        return _tensor(words).view(dtype).view(entry.shape)
    scheme, codes, scales = unpack_codes(entry, content)
    weight = scheme.restore(codes, scales, dtype)
    if not torch.equal(scheme.suiting(weight).scales(weight), scales):
        # Quantized layers compute scales from their weights, and would round to other codes.
        raise ValueError("its scales are not those that its largest codes belong to")
    return weight.t().contiguous() if quantization_of(entry).transposed else weight


def unpack_codes(entry: Entry, content: memoryview) -> tuple[WeightScheme, Tensor, Tensor]:
    """Return scheme, int8 codes (out, in) and scales of a quantized entry that has been checked.

    Raises `ValueError` if the content is damaged.
    """
    scheme, matrix = _matrix(entry)
    shape, first = _scales(scheme, matrix), entry.coding.length
    decoded = decode(entry.coding, content[:first], math.prod(entry.shape), scheme.highest)
    codes = _tensor(decoded).view(matrix)
    words = unpack_words(quantization_of(entry).scales, content[first:], math.prod(shape), _SCALE_BYTES)
    scales = _tensor(words).view(torch.float32).view(shape)
    if not (torch.isfinite(scales) & (scales > 0)).all():
        raise ValueError("its scales are not all positive numbers")
    return scheme, codes, scales


def _entry(
    name: str, tensor: Tensor, coding: Coding, content: bytes, quantization: Quantization | None
) -> tuple[Entry, bytes]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Entry(name, dtype, tuple(tensor.shape), coding, quantization), content


def quantization_of(entry: Entry) -> Quantization:
    """Return how an entry is quantized; raise `ValueError` for one that is not."""
    if entry.quantization is None:
        raise ValueError(f"{entry.name} is not quantized")
    return entry.quantization


def scheme_of(entry: Entry) -> WeightScheme:
    """Return the scheme of a quantized entry."""
    return read_weight_scheme(quantization_of(entry).weights)


def _matrix(entry: Entry) -> tuple[WeightScheme, tuple[int, int]]:
    """Return the scheme of a quantized entry and the shape of its codes, (out, in)."""
    rows, columns = entry.shape
    matrix = (columns, rows) if quantization_of(entry).transposed else (rows, columns)
    return scheme_of(entry), matrix


def _scales(scheme: WeightScheme, matrix: tuple[int, int]) -> tuple[int, int]:
    rows, columns = matrix
    if scheme.granularity == "tensor":
        return 1, 1
    return rows, columns // (scheme.group or columns)


def _tensor(words: np.ndarray) -> Tensor:
    return torch.from_numpy(words.astype(words.dtype.newbyteorder("="), copy=False))


def quantized_entries(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return the entries that are quantized."""
    return {name: entry for name, entry in entries.items() if entry.quantization}


def quantize_again(model: nn.Module, layers: Mapping[str, Entry]) -> None:
    """Quantize the layers of a loaded model as their entries say; keys of `layers` are names of weights."""
    phase = Phase(observing=False)
    alike: dict[tuple[WeightScheme, str, str], list[Target]] = {}
    for name, entry in layers.items():
        module, layer = model.get_submodule(name.removesuffix(_WEIGHT)), quantization_of(entry)
        target = Target(name, module, transposed=layer.transposed)
        # The model may have been loaded in another dtype than that of the file.
        scheme = scheme_of(entry).suiting(target.weight.detach())
        key = (scheme, layer.activations, layer.observer)
        alike.setdefault(key, []).append(target)
    for (weights, activations, observer), targets in alike.items():
        parts = attach(targets, weights, activations, observer, phase)
        for target in targets:
            if (ends := quantization_of(layers[target.name]).input_range) is not None:
                module = as_quantized(target.module)
                module.input_low.fill_(ends[0])
                module.input_high.fill_(ends[1])
                parts[target.name.removesuffix(_WEIGHT)].seen = True
