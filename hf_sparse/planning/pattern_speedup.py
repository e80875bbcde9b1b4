"""How much faster each sparsity pattern makes a layer on this machine: measured, and as a table."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import nn

from hf_sparse.report.tables import narrow_table
from hf_sparse.runtime.autotune import PackedLayer, pack_layer
from hf_sparse.runtime.bindings import Kernels
from hf_sparse.runtime.integer_layer import FIXED, IntegerLayer
from hf_sparse.runtime.linear import RuntimeLinear

# Rows and columns of a block.
PATTERNS = {"4x4": (4, 4), "4x1": (4, 1), "1x4": (1, 4), "unstructured": (1, 1)}
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
_ROUNDS, _STEP, _ZERO = 9, 0.02, 128


@dataclass(frozen=True)
class Speedup:
    """Speed-up of a sparse int8 layer over the dense int8 layer, in `times` by pattern and sparsity.

    `path` names the kernels, `shape` is (out, in). `dense` and `floats` are the seconds of the dense layer in
    8 bits and in PyTorch's float32.
    """

    path: str
    shape: tuple[int, int]
    tokens: int
    dense: float
    floats: float
    times: Mapping[str, Mapping[float, float]]


def measure_speedup(kernels: Kernels, shape: tuple[int, int] = (3072, 768), tokens: int = 128) -> Speedup:
    """Time a layer with random zeros in every pattern, on the threads that PyTorch is set to.

    Each time is the least of several, measured in turns. Trained masks are less even than random ones, and
    rows of different length cost a few percent.
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
    return Speedup(kernels.path, shape, tokens, dense, least["floats", 0.0], times)


def print_speedup(measured: Speedup, chosen: Sequence[str], console: Console) -> None:
    """Print a table of patterns by sparsity; patterns in `chosen`, those of the recipe, are marked."""
    rows, columns = measured.shape
    about = (
        f"One layer of {rows} x {columns} in the CPU runtime ({measured.path}), {measured.tokens} tokens:\n"
        f"dense in 8 bits {measured.dense * 1e3:.2f} ms, PyTorch in float32 {measured.floats * 1e3:.2f} ms.\n"
        "Speed-up of sparse layers over dense in 8 bits:"
    )
    shares = list(next(iter(measured.times.values())))
    table = narrow_table("pattern", *(f"{share:.0%} zeros" for share in shares))
    for name, gains in measured.times.items():
        mark = " *" if name in chosen else ""
        table.add_row(name + mark, *(f"{gains[share]:.1f}x" for share in shares))
    console.print("", about, "", table, sep="\n", highlight=False)
    if any(name in chosen for name in measured.times):
        console.print("* the recipe's", highlight=False)


def _layer(kernels: Kernels, codes: torch.Tensor) -> RuntimeLinear:
    steps = torch.full((len(codes),), _STEP)
    packed: PackedLayer = pack_layer(kernels, IntegerLayer(codes, steps, None, FIXED, _STEP, _ZERO))
    return RuntimeLinear(kernels, packed)
