"""Sizes of packed models, counted in the ways that publications and file systems count them."""

from pathlib import Path

import pytest
import torch
from tiny import bert
from transformers import MixtralConfig, MixtralForCausalLM

from hf_sparse import find_targets
from hf_sparse.checkpoint.container import PACKED
from hf_sparse.checkpoint.packed import load_packed, save_packed
from hf_sparse.checkpoint.sizes import Sizes, measure_sizes
from hf_sparse.quantization.convert import attach
from hf_sparse.quantization.linear import Phase
from hf_sparse.quantization.weights import read_weight_scheme


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
