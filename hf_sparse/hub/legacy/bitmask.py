"""Undo compressed weights: their non-zero values beside one bit for every entry.

compressed-tensors before 0.15 (`compressors/sparse_compressors/sparse_bitmask.py` and `sparse_24_bitmask.py`)
and SparseML with it wrote `weight.compressed` or `compressed` (values in the order of rows), `bitmask`
(uint8, the first entry in the lowest bit, rows filled up to whole bytes), `shape`, and `row_offsets` (where
each row's values begin), and said so in config.json under `quantization_config` or `compression_config`,
`sparsity_config`. Today's releases do not read them. If a weight was quantized first, its values are codes
beside `weight_scale`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_sparse.hub.legacy.old_checkpoint import Conversion, Grid, Rounds, State, some

_PARTS = ("compressed", "bitmask", "shape", "row_offsets")
_CONFIGS = ("quantization_config", "compression_config", "sparsity_config")
# Tensors with the grids of activations.
_RANGES = tuple(
    f".{of}_{what}" for of in ("input", "output") for what in ("scale", "zero_point", "global_scale")
)


def unpack_bitmasks(state: State) -> Conversion | None:
    """Unpack compressed weights, and multiply codes by their scales; see the module."""
    owners = {key.rpartition(".")[0] for key in state.tensors if key.endswith((".compressed", ".bitmask"))}
    if not owners and not _names_sparsity(state.config):
        return None
    used = {f"{owner}.{part}" for owner in owners for part in _PARTS}
    tensors = {key: value for key, value in state.tensors.items() if key not in used}
    compressed = {}
    for owner in sorted(owners):
        weight = owner if owner.endswith(".weight") else f"{owner}.weight"
        if weight in tensors:
            raise ValueError(
                f"the checkpoint holds {weight} and {owner}.compressed, and cannot say which counts; remove "
                "one of them"
            )
        compressed[weight] = _read(owner, state.tensors)
        tensors[weight] = compressed[weight].dense()
    notes = [f"{some(len(owners), 'tensor')} unpacked (compressed, bitmask)"] if owners else []
    rounded = _rounded(tensors, state.config)
    tensors, scales = _dequantize(tensors)
    if scales:
        notes.append(
            f"{some(len(scales), 'quantized weight')} turned into floats: codes times scales"
            + ("; inputs are not rounded any more" if rounded else "")
        )
    if not notes:
        notes.append("the record of a sparse format (sparsity_config) taken out of the configuration")
    as_written = {
        weight.removesuffix(".weight"): partial(_as_rows, held=held, scale=scales.get(weight))
        for weight, held in compressed.items()
        if len(held.shape) == 2
    }
    config = {key: value for key, value in state.config.items() if key not in _CONFIGS}
    return Conversion(State(tensors, config), tuple(notes), as_written, rounded)


@dataclass(frozen=True)
class _Compressed:
    """One tensor: its values in the order of rows, a bit for every entry, and where each row's values begin.

    `bits` is uint8 of shape (..., ceil(columns / 8)); `offsets` is (rows,), None if it was not stored.
    """

    values: Tensor
    bits: Tensor
    shape: tuple[int, ...]
    offsets: Tensor | None

    def dense(self) -> Tensor:
        filled = np.unpackbits(self.bits.numpy(), axis=-1, count=self.shape[-1], bitorder="little")
        weight = torch.zeros(self.shape, dtype=self.values.dtype)
        weight[torch.from_numpy(filled).bool()] = self.values
        return weight


def _names_sparsity(config: Mapping[str, object]) -> bool:
    # Transformers reads the first key only, and loads quantized weights well if it lacks a sparse format.
    quantization, *older = (config.get(name) for name in _CONFIGS)
    return any(older) or (isinstance(quantization, dict) and bool(quantization.get("sparsity_config")))


def _read(owner: str, tensors: Mapping[str, Tensor]) -> _Compressed:
    for part in _PARTS[:3]:
        if f"{owner}.{part}" not in tensors:
            raise ValueError(
                f"{owner} lacks {owner}.{part}, so it is not whole; get all files of the checkpoint"
            )
    values, bits, shape = (tensors[f"{owner}.{part}"] for part in _PARTS[:3])
    lengths = tuple(shape.flatten().tolist())
    if (
        shape.is_floating_point()
        or not lengths
        or bits.dtype != torch.uint8
        or bits.shape != (*lengths[:-1], -(-lengths[-1] // 8))
    ):
        raise ValueError(
            f"{owner}.bitmask is {bits.dtype} of shape {tuple(bits.shape)}, which does not fit a tensor "
            f"of shape {lengths}; get the file again"
        )
    flags = np.unpackbits(bits.numpy(), axis=-1, bitorder="little")
    counts, padding = flags.sum(axis=-1, dtype=np.int64), flags[..., lengths[-1] :]
    if counts.sum() != values.numel() or padding.any():
        raise ValueError(
            f"{owner}.bitmask has {int(counts.sum()):,} bits set and {owner}.compressed {values.numel():,} "
            "values; every bit of an entry has one, get the file again"
        )
    offsets = tensors.get(f"{owner}.row_offsets")
    if offsets is not None and len(lengths) == 2:
        expected = np.cumsum(counts) - counts
        if offsets.shape != expected.shape or (offsets.numpy() != expected).any():
            raise ValueError(
                f"{owner}.row_offsets says that rows begin elsewhere than {owner}.bitmask does; get the "
                "file again"
            )
    return _Compressed(values.flatten(), bits, lengths, offsets)


def _dequantize(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return floats in place of codes, and the scales of the weights that were codes."""
    for key in tensors:
        if key.endswith((".weight_packed", ".weight_g_idx")):
            raise ValueError(
                f"{key} belongs to weights packed in 32-bit words, which are not read here; decompress them "
                "with the release of compressed-tensors that wrote them"
            )
    scales = {
        key.removesuffix("_scale"): value for key, value in tensors.items() if key.endswith(".weight_scale")
    }
    plain = {key: value for key, value in tensors.items() if not key.endswith((*_RANGES, ".weight_scale"))}
    for weight, scale in scales.items():
        codes = plain.get(weight)
        zero_point = plain.pop(f"{weight}_zero_point", None)
        if zero_point is not None and zero_point.any():
            raise ValueError(
                f"{weight}_zero_point is not zero, so zeros of {weight} are not zero; decompress it with the "
                "release of compressed-tensors that wrote it"
            )
        if codes is None or (scale.numel() != 1 and scale.shape != (len(codes), 1)):
            raise ValueError(
                f"{weight}_scale of shape {tuple(scale.shape)} is neither one scale nor one for every "
                f"output of {weight}; decompress it with the release of compressed-tensors that wrote it"
            )
        if codes.dtype in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(
                f"{weight} is {codes.dtype} beside {weight}_scale, so it holds no codes to multiply; save it "
                "compressed with the release of compressed-tensors that wrote it"
            )
        plain[weight] = codes.float() * scale.float()
    return plain, scales


def _rounded(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Rounds | None]:
    """Return the grids of activations by module, None for a module whose grids the tensors do not give.

    Only signed grids of 8 bits are read. A dynamic scheme computes its scale from each input, so it stores
    none.
    """
    modules = {key.removesuffix(".weight_scale") for key in tensors if key.endswith(".weight_scale")}
    modules |= {key[: -len(ending)] for key in tensors for ending in _RANGES if key.endswith(ending)}
    held: Mapping[str, Any] = next(
        (config[name] for name in _CONFIGS[:2] if isinstance(config.get(name), dict)), {}
    )
    groups = [group for group in (held.get("config_groups") or {}).values() if isinstance(group, dict)]
    schemes = [
        group[of] for group in groups for of in ("input_activations", "output_activations") if group.get(of)
    ]
    known = bool(schemes) and all(
        scheme.get("num_bits", 8) == 8 and scheme.get("type", "int") == "int" for scheme in schemes
    )
    rounded = {}
    for module in sorted(modules):
        grids = {f"{of}s": _grid(tensors, f"{module}.{of}") for of in ("input", "output")}
        if any(grids.values()):
            rounded[module] = Rounds(**grids) if known else None
        elif schemes:
            rounded[module] = None
    return rounded


def _grid(tensors: Mapping[str, Tensor], name: str) -> Grid | None:
    scale = tensors.get(f"{name}_scale")
    if scale is None:
        return None
    zero_point = tensors.get(f"{name}_zero_point", torch.zeros_like(scale))
    return Grid(scale.float(), zero_point.float(), -128)


def _as_rows(module: nn.Module, held: _Compressed, scale: Tensor | None) -> nn.Module:
    # Embeddings look values up and norms multiply by them, so unpacking their weights is all the layout does.
    return _Rows(module, held, scale) if isinstance(module, nn.Linear) else module


class _Rows(nn.Module):
    """A Linear that multiplies by the stored values row by row, without a dense matrix."""

    def __init__(self, module: nn.Linear, held: _Compressed, scale: Tensor | None) -> None:
        super().__init__()
        self.bias, self.scale = module.bias, scale
        bits = held.bits.to(torch.int64)[..., None] >> torch.arange(8) & 1
        row, byte, bit = bits.nonzero(as_tuple=True)
        begins = held.offsets
        if begins is None:
            begins = torch.searchsorted(row, torch.arange(held.shape[0]))
        inner = begins[1:].tolist()
        self.values = held.values.float().tensor_split(inner)
        self.columns = (8 * byte + bit).tensor_split(inner)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = zip(self.values, self.columns, strict=True)
        outputs = torch.stack([inputs[..., columns] @ values for values, columns in rows], -1)
        if self.scale is not None:
            outputs = outputs * self.scale.float().flatten()
        return outputs if self.bias is None else outputs + self.bias
