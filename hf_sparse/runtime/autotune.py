"""Choose the form in which a weight computes fastest on this machine, from measured times."""

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_sparse.native.build import once
from hf_sparse.runtime.bindings import Grid, Kernels, pointer
from hf_sparse.runtime.integer_layer import IntegerLayer
from hf_sparse.runtime.weight_forms import (
    ROWS,
    Form,
    PackedWeight,
    RowWeight,
    count_entries,
    forms,
    pack,
    pack_rows,
    require_codes,
)

_INPUTS, _OUTPUTS, _TOKENS, _REPEATS = 512, 128, 128, 25
_STEP = 0.05
_SAMPLE = 16
# A form with larger blocks is taken if it was measured at most this much slower than the best one.
_NOISE = 1.05


@dataclass(frozen=True, eq=False)
class PackedLayer:
    """A packed weight, the grid of its input as `Grid` takes it, and the share of its zeros.

    `few` is the same weight for a few tokens, None if it is never called with so few.
    """

    weight: PackedWeight
    grid: tuple[float, float, int]
    sparsity: float
    few: RowWeight | None = None


def pack_layer(kernels: Kernels, layer: IntegerLayer, few: bool = False) -> PackedLayer:
    """Pack a layer in the form that is fastest here; raise `ValueError` for codes that cannot be packed.

    `few` packs it a second time, for calls with a few tokens.
    """
    require_codes(layer.codes)
    form = best_form(kernels, layer.codes)
    weight = pack(kernels, layer.codes, layer.multipliers, layer.bias, form)
    grid = layer.input_step, float(layer.input_zero), layer.dynamic
    return PackedLayer(weight, grid, layer.sparsity, pack_rows(kernels, layer) if few else None)


def pack_pieces(kernels: Kernels, layer: IntegerLayer, pieces: int) -> tuple[PackedLayer, ...]:
    """Pack a layer as several of the same height, each with a part of its outputs; see `pack_layer`."""
    if layer.codes.shape[0] % pieces:
        raise ValueError(f"{layer.codes.shape[0]} outputs cannot be divided into {pieces} equal parts")
    parts = zip(
        layer.codes.chunk(pieces),
        layer.steps.chunk(pieces),
        [None] * pieces if layer.bias is None else layer.bias.chunk(pieces),
        strict=True,
    )
    return tuple(
        pack_layer(kernels, replace(layer, codes=codes.contiguous(), steps=steps, bias=bias))
        for codes, steps, bias in parts
    )


def best_form(kernels: Kernels, codes: Tensor) -> Form:
    """Return the form in which int8 codes (out, in) take the least time, by entries times `measured_rates`.

    Of forms that are nearly as fast, take the one with the largest blocks, since it needs the least memory.
    Large weights are judged by a sample of their rows.
    """
    rates = measured_rates(kernels)
    stripes = codes.view(-1, ROWS, codes.shape[1]) if len(codes) % ROWS == 0 else codes[None]
    some = stripes[:: len(stripes) // _SAMPLE + 1].reshape(-1, codes.shape[1])
    costs = {form: count_entries(kernels, some, form)[0] * rates[form] for form in rates}
    bound = min(costs.values()) * _NOISE
    return next(form for form, cost in costs.items() if cost <= bound)


@once
def measured_rates(kernels: Kernels) -> dict[Form, float]:
    """Return nanoseconds per entry and token of each form, measured once in a process.

    The time of a layer without entries is subtracted, so that only what an entry adds counts.
    """
    generator = torch.Generator().manual_seed(0)
    shape = _OUTPUTS, _INPUTS
    codes = torch.randint(1, 128, shape, generator=generator, dtype=torch.int8, device="cpu")
    # A quarter of the blocks, apart from each other.
    apart = torch.rand(_OUTPUTS // 4, _INPUTS // 4, generator=generator, device="cpu") < 0.25
    codes *= apart.repeat_interleave(4, 0).repeat_interleave(4, 1)
    weights = {
        (form, full): pack(kernels, codes * full, torch.ones(1, device="cpu"), None, form)
        for form in forms(kernels.group)
        for full in (1, 0)
    }
    # The shortest of several times, taken in turns, since other work on the machine only adds time.
    least = dict.fromkeys(weights, float("inf"))
    for _ in range(_REPEATS):
        for key, packed in weights.items():
            least[key] = min(least[key], _seconds(kernels, packed))
    return {
        form: max(least[form, 1] - least[form, 0], 1e-9) / weights[form, 1].entries / _TOKENS * 1e9
        for form in forms(kernels.group)
    }


def _seconds(kernels: Kernels, packed: PackedWeight) -> float:
    inputs = torch.zeros(_TOKENS, packed.columns, device="cpu")
    outputs = torch.empty(_TOKENS, packed.rows, device="cpu")
    matrix, grid = packed.matrix(), Grid(_STEP, 0.0, 0)
    begin = time.perf_counter()
    kernels.library.hf_sparse_linear(
        pointer(matrix), pointer(grid), inputs.data_ptr(), _TOKENS, outputs.data_ptr(), 1
    )
    return time.perf_counter() - begin
