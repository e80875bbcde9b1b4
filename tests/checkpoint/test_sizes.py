"""Sizes of packed models, counted in the ways that publications and file systems count them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM

from hf_sparse import find_targets
from hf_sparse.checkpoint import formats as publishing
from hf_sparse.checkpoint.compressed_tensors import save_compressed
from hf_sparse.checkpoint.formats import FORMATS, write_format
from hf_sparse.checkpoint.packed import model as packed_model
from hf_sparse.checkpoint.packed.model import load_packed, save_packed
from hf_sparse.checkpoint.packed.packed_file import PACKED
from hf_sparse.checkpoint.sizes import Sizes, measure_sizes
from hf_sparse.quantization.convert import attach
from hf_sparse.quantization.fake_layers import Phase
from hf_sparse.quantization.weights import read_weight_scheme
from tests.support.tiny import bert


def packed(folder: Path, weights: str | None) -> tuple[Sizes, torch.nn.Module]:
    """Pack a model of which each encoder weight has lost exactly 9 of 10 entries."""
    model = bert(hidden_size=40, intermediate_size=80)
    with torch.no_grad():
        for target in find_targets(model):
            values = target.weight.view(-1)
            values[values.abs().argsort()[: int(0.9 * values.numel())]] = 0
    if weights is not None:
        # No kept weight is rounded to zero.
        for target in find_targets(model):
            target.weight.data.sign_()
        attach(find_targets(model), read_weight_scheme(weights), "none", "min_max", Phase())
    return save_packed(model.eval(), folder), model


@pytest.mark.parametrize(("weights", "bits"), [(None, 32), ("int8_per_channel", 8), ("int4_per_channel", 4)])
def test_the_paper_counts_kept_weights_times_their_bits(
    weights: str | None, bits: int, tmp_path: Path
) -> None:
    sizes, model = packed(tmp_path, weights)
    encoder = 2 * (4 * 40 * 40 + 2 * 40 * 80)
    assert sizes.encoder_weights == encoder and sizes.encoder_dense_bytes == 4 * encoder
    assert sizes.encoder_nonzero == encoder // 10
    assert sizes.counted_bytes == encoder / 10 * bits / 8
    assert sizes.counted_ratio == pytest.approx(10 * 32 / bits)
    assert sizes.dense_bytes == 4 * sum(value.numel() for value in model.parameters())


def test_file_and_encoder_are_what_lies_on_disk(tmp_path: Path) -> None:
    sizes, _ = packed(tmp_path, "int8_per_channel")
    assert sizes.file_bytes == (tmp_path / PACKED).stat().st_size
    assert sizes.ratio == sizes.dense_bytes / sizes.file_bytes > 1
    assert 0 < sizes.encoder_bound_bytes <= sizes.encoder_bytes < sizes.file_bytes - sizes.scale_bytes
    assert sizes.scale_bytes > 0 and sizes.over_bound >= 1


def test_a_loaded_model_has_the_sizes_of_the_one_that_was_saved(tmp_path: Path) -> None:
    sizes, _ = packed(tmp_path, "int4_per_channel")
    assert measure_sizes(load_packed(tmp_path), tmp_path) == sizes


def test_an_encoder_of_floats_takes_about_its_entropy(tmp_path: Path) -> None:
    sizes, _ = packed(tmp_path, None)
    assert sizes.scale_bytes == 0 and 1 <= sizes.over_bound < 1.3


def test_experts_are_counted_once_each(tmp_path: Path) -> None:
    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 50}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3}
    model = MixtralForCausalLM(MixtralConfig(**settings, **heads)).eval()
    sizes = save_packed(model, tmp_path)
    assert sizes.encoder_weights == 4 * 32 * 32 + 3 * 3 * 32 * 64 == sizes.encoder_nonzero
    assert sizes.encoder_bytes < sizes.encoder_dense_bytes


@pytest.mark.parametrize(
    ("weights", "values"), [("int8_per_channel", "weight"), ("int4_group_8", "weight_packed")]
)
def test_a_compressed_directory_is_measured_by_its_tensors(tmp_path: Path, weights: str, values: str) -> None:
    small, model = packed(tmp_path / "packed", weights)
    activations = "none" if values == "weight_packed" else "int8_per_token"
    attach(find_targets(model), read_weight_scheme(weights), activations, "min_max", Phase())
    save_compressed(model, tmp_path / "compressed")
    sizes = measure_sizes(model, tmp_path / "compressed")
    file = tmp_path / "compressed" / "model.safetensors"
    held = {name: value for name, value in load_file(file).items() if ".encoder.layer." in name}
    linears = {name: value for name, value in held.items() if "LayerNorm" not in name and "bias" not in name}
    expected = sum(value.nbytes for name, value in linears.items() if name.endswith(f".{values}"))
    assert sizes.file_bytes == file.stat().st_size and sizes.encoder_bytes == expected > 0
    assert sizes.scale_bytes == sum(value.nbytes for value in linears.values()) - expected > 0
    assert sizes.counted_bytes == small.counted_bytes and sizes.over_bound > small.over_bound


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_a_plain_directory_holds_whole_floats(tmp_path: Path, shard: str) -> None:
    model = bert().bfloat16()
    model.save_pretrained(tmp_path, max_shard_size=shard)
    sizes = measure_sizes(model, tmp_path)
    assert sizes.encoder_bytes == sizes.encoder_dense_bytes / 2 and sizes.scale_bytes == 0
    assert sizes.file_bytes == sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert sizes.counted_bytes == 2 * sizes.encoder_nonzero


def test_what_was_trained_for_few_bits_is_counted_in_them(tmp_path: Path) -> None:
    model = bert().eval()
    attach(
        find_targets(model), read_weight_scheme("int4_per_channel"), "uint8_per_tensor", "min_max", Phase()
    )
    model.save_pretrained(tmp_path)
    # Though no data has reached its layers.
    sizes = measure_sizes(model, tmp_path)
    assert sizes.counted_bytes == sizes.encoder_nonzero / 2 < sizes.encoder_weights / 2
    assert sizes.encoder_bytes == sizes.encoder_dense_bytes and sizes.over_bound > 8


@pytest.mark.parametrize("form", FORMATS)
def test_a_model_is_measured_once_as_it_is_written(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bert().eval()
    attach(find_targets(model), read_weight_scheme("int8_per_channel"), "none", "min_max", Phase())
    measured = []

    def measure(model: torch.nn.Module, directory: Path) -> Sizes:
        measured.append(directory)
        return measure_sizes(model, directory)

    for module in (packed_model, publishing):
        monkeypatch.setattr(module, "measure_sizes", measure)
    sizes = write_format(model, tmp_path / "out", form)
    assert len(measured) == 1
    assert sizes == measure_sizes(model, tmp_path / "out")
