"""Values beside bits become matrices again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.utils import pack_bitmasks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hf_sparse.hub import load_legacy
from hf_sparse.hub.legacy.bitmask import unpack_bitmasks
from hf_sparse.hub.legacy.old_checkpoint import State
from tests.hub.legacy.written import PRUNED, assert_gives, config_of, keep, logits, tensors_of, wide, write

SPARSITY = {"format": "sparse-bitmask", "global_sparsity": 0.75, "sparsity_structure": "unstructured"}


def compress(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """As compressed-tensors 0.14 did."""
    filled = weight != 0
    counts = filled.sum(-1)
    return {
        "compressed": weight[filled],
        "bitmask": pack_bitmasks(filled),
        "shape": torch.tensor(weight.shape),
        "row_offsets": counts.cumsum(0) - counts,
    }


def two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """Return a mask of the largest two of every four values."""
    largest = weight.reshape(-1, 4).abs().topk(2, dim=1).indices
    return torch.zeros(weight.numel() // 4, 4).bool().scatter(1, largest, True).reshape(weight.shape)


def compress_two_of_four(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """As its own format for 2:4 did: two values of every four, zeros among them, a column for the shape."""
    chosen = two_of_four(weight)
    values = weight[chosen].reshape(len(weight), -1)
    shape = torch.tensor(weight.shape).reshape(-1, 1)
    return {"compressed": values, "bitmask": pack_bitmasks(chosen), "shape": shape}


def bitmasks(owner: str = "{}.weight", **config: Any) -> tuple[dict, dict, dict]:
    """Return what was written, the plain weights, and the configuration."""
    model = wide()
    written, plain = tensors_of(model), tensors_of(model)
    for name in PRUNED:
        plain[name] *= keep(plain[name].shape, 0.75, (1, 4))
        del written[name]
        parts = compress(plain[name])
        written |= {
            f"{owner.format(name.removesuffix('.weight'))}.{part}": value for part, value in parts.items()
        }
    return written, plain, config_of(model) | config


@pytest.mark.parametrize("owner", ["{}.weight", "{}"])
@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "compressed-tensors", "sparsity_config": SPARSITY}},
        {"compression_config": {"sparsity_config": SPARSITY}},
        {"sparsity_config": SPARSITY},
        {},
    ],
)
def test_weights_are_unpacked(tmp_path: Path, owner: str, config: dict) -> None:
    written, plain, config = bitmasks(owner, **config)
    rescued = load_legacy(str(write(tmp_path, written, config, "model.safetensors")))
    assert rescued.layouts == ("bitmasks",) and rescued.notes == (
        "12 tensors unpacked (compressed, bitmask)",
    )
    assert (rescued.pattern, rescued.sparsity) == ("1x4", 0.75) and rescued.difference < 1e-6
    assert_gives(rescued.model, logits(plain))
    assert (
        not {"quantization_config", "compression_config", "sparsity_config"}
        & vars(rescued.model.config).keys()
    )


def test_norms_and_embeddings_may_be_compressed_too(tmp_path: Path) -> None:
    written, plain, config = bitmasks()
    for name in ("bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.weight"):
        written |= {f"{name}.{part}": value for part, value in compress(written.pop(name)).items()}
    rescued = load_legacy(str(write(tmp_path, written, config, "model.safetensors")))
    assert_gives(rescued.model, logits(plain))


def test_two_of_four_has_no_offsets(tmp_path: Path) -> None:
    written, plain, config = bitmasks()
    dense = tensors_of(wide())
    for name in PRUNED:
        plain[name] = dense[name] * two_of_four(dense[name])
        del written[f"{name}.row_offsets"]
        parts = compress_two_of_four(plain[name])
        written |= {f"{name}.{part}": value for part, value in parts.items()}
    rescued = load_legacy(str(write(tmp_path, written, config, "model.safetensors")))
    assert (rescued.pattern, rescued.sparsity) == ("2:4", 0.5)
    assert_gives(rescued.model, logits(plain))


@pytest.mark.parametrize("per_channel", [True, False])
def test_codes_are_multiplied_by_their_scales(tmp_path: Path, per_channel: bool) -> None:
    written, plain, config = bitmasks(
        quantization_config={"format": "int-quantized", "sparsity_config": SPARSITY}
    )
    for name in PRUNED:
        largest = plain[name].abs().amax(1, keepdim=True) if per_channel else plain[name].abs().max()[None]
        scale = largest / 127
        codes = (plain[name] / scale).round().to(torch.int8)
        plain[name] = codes * scale
        written |= {f"{name}.{part}": value for part, value in compress(codes).items()}
        module = name.removesuffix(".weight")
        written |= {f"{name}_scale": scale, f"{name}_zero_point": torch.zeros_like(scale, dtype=torch.int8)}
        written |= {f"{module}.input_scale": torch.ones(1), f"{module}.input_zero_point": torch.zeros(1)}
    rescued = load_legacy(str(write(tmp_path, written, config, "model.safetensors")))
    assert (
        rescued.notes[1].startswith("12 quantized weights turned into floats") and rescued.difference < 1e-5
    )
    assert_gives(rescued.model, logits(plain))


def test_a_dense_sparse_format_is_taken_out_of_the_configuration(tmp_path: Path) -> None:
    model = wide()
    config = config_of(model, quantization_config={"sparsity_config": SPARSITY | {"format": "dense"}})
    rescued = load_legacy(str(write(tmp_path, tensors_of(model), config)))
    assert rescued.layouts == ("bitmasks",) and "quantization_config" not in vars(rescued.model.config)


@settings(max_examples=50, deadline=None)
@given(arrays(np.int8, array_shapes(min_dims=1, max_dims=2, max_side=20), elements=st.integers(-1, 1)))
def test_what_was_packed_is_unpacked(weight: np.ndarray) -> None:
    dense = torch.from_numpy(weight).float()
    state = State({f"layer.weight.{part}": value for part, value in compress(dense).items()}, {})
    assert torch.equal(unpack_bitmasks(state).state.tensors["layer.weight"], dense)


FIRST = f"{PRUNED[0]}"


@pytest.mark.parametrize(
    ("part", "damage", "message"),
    [
        ("compressed", lambda values: values[:-1], "has 256 bits set and .*compressed 255 values"),
        ("compressed", lambda values: values.repeat(2), "has 256 bits set and .*compressed 512 values"),
        ("bitmask", lambda bits: bits[:-1], "does not fit a tensor of shape \\(32, 32\\)"),
        ("bitmask", lambda bits: bits.to(torch.int32), "bitmask is torch.int32 of shape"),
        ("bitmask", lambda bits: bits.flip(0), "row_offsets says that rows begin elsewhere"),
        ("shape", lambda shape: shape * 1000, "does not fit a tensor of shape \\(32000, 32000\\)"),
        ("shape", lambda shape: shape - torch.tensor([0, 1]), "bits set"),
        ("shape", lambda shape: shape[:0], "does not fit a tensor"),
        ("row_offsets", lambda offsets: offsets + 1, "row_offsets says that rows begin elsewhere"),
        ("row_offsets", lambda offsets: offsets[:-1], "row_offsets says that rows begin elsewhere"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(
    tmp_path: Path, part: str, damage: object, message: str
) -> None:
    written, _, config = bitmasks()
    if part == "bitmask":
        # Rows of one length would look the same the other way round.
        mask = torch.arange(32)[:, None] < torch.arange(32)
        written |= {f"{FIRST}.{name}": value for name, value in compress(mask.float()).items()}
    written[f"{FIRST}.{part}"] = damage(written[f"{FIRST}.{part}"])
    with pytest.raises(ValueError, match=message):
        load_legacy(str(write(tmp_path, written, config, "model.safetensors")))


@pytest.mark.parametrize("part", ["compressed", "bitmask", "shape"])
def test_a_missing_part_is_refused(tmp_path: Path, part: str) -> None:
    written, _, config = bitmasks()
    del written[f"{FIRST}.{part}"]
    with pytest.raises(ValueError, match=f"{FIRST} lacks {FIRST}.{part}, so it is not whole"):
        load_legacy(str(write(tmp_path, written, config, "model.safetensors")))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({FIRST: torch.ones(32, 32)}, "cannot say which counts"),
        ({f"{FIRST}_packed": torch.ones(1)}, "packed in 32-bit words"),
        ({f"{FIRST}_scale": torch.ones(32, 4)}, "neither one scale nor one for every output"),
        ({f"{FIRST}_scale": torch.ones(1)}, "is torch.float32 beside .*_scale, so it holds no codes"),
        ({f"{FIRST}_scale": torch.ones(1), f"{FIRST}_zero_point": torch.ones(1)}, "zeros of .* are not zero"),
    ],
)
def test_what_is_not_unpacked_here_is_refused(tmp_path: Path, extra: dict, message: str) -> None:
    written, _, config = bitmasks()
    with pytest.raises(ValueError, match=message):
        load_legacy(str(write(tmp_path, written | extra, config, "model.safetensors")))
