"""What patterns buy on this machine: one layer's time at several sparsities, measured."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from hf_sparse.runtime.choosing import PackedLayer, pack_layer
from hf_sparse.runtime.integers import FIXED, IntegerLayer
from hf_sparse.runtime.library import Kernels
from hf_sparse.runtime.linear import RuntimeLinear

# Rows and columns of a block.
PATTERNS = {"4x4": (4, 4), "4x1": (4, 1), "1x4": (1, 4), "unstructured": (1, 1)}
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
_ROUNDS, _STEP, _ZERO = 9, 0.02, 128


@dataclass(frozen=True)
class Gains:
    """How often faster than the dense layer in 8 bits a sparse one is, by pattern and sparsity.

    `dense` and `floats` are seconds of that layer, (out, in), in 8 bits and as PyTorch's of float32.
    """

    path: str
    shape: tuple[int, int]
    tokens: int
    dense: float
    floats: float
    times: Mapping[str, Mapping[float, float]]


def measure_gains(kernels: Kernels, shape: tuple[int, int] = (3072, 768), tokens: int = 128) -> Gains:
    """Time a layer with random zeros in every pattern, on the threads that PyTorch has.

    Each time is the least of several, taken in turns. Masks that were trained are less even than random ones;
    rows of different length cost a few per cent.
    """
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(1, 128, shape, generator=generator, dtype=torch.int8)
    layers: dict[tuple[str, float], nn.Module] = {("dense", 0.0): _layer(kernels, codes)}
    for name, (tall, wide) in PATTERNS.items():
        for sparsity in SPARSITIES:
            kept = torch.rand(-(-shape[0] // tall), -(-shape[1] // wide), generator=generator) >= sparsity
            mask = kept.repeat_interleave(tall, 0).repeat_interleave(wide, 1)[: shape[0], : shape[1]]
            layers[name, sparsity] = _layer(kernels, codes * mask)
    layers["floats", 0.0] = nn.Linear(shape[1], shape[0])
    inputs = torch.randn(tokens, shape[1], generator=generator)
    least = dict.fromkeys(layers, float("inf"))
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for key, layer in layers.items():
                begin = time.perf_counter()
                layer(inputs)
                least[key] = min(least[key], time.perf_counter() - begin)
    dense = least["dense", 0.0]
    times = {name: {at: dense / least[name, at] for at in SPARSITIES} for name in PATTERNS}
    return Gains(kernels.path, shape, tokens, dense, least["floats", 0.0], times)


def _layer(kernels: Kernels, codes: torch.Tensor) -> RuntimeLinear:
    steps = torch.full((len(codes),), _STEP)
    packed: PackedLayer = pack_layer(kernels, IntegerLayer(codes, steps, None, FIXED, _STEP, _ZERO))
    return RuntimeLinear(kernels, packed)
