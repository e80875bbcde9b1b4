"""Models that were quantized in one dtype and cast to another are packed, read and compute alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import BertForSequenceClassification

from hf_sparse.checkpoint.compressed_tensors import save_compressed
from hf_sparse.checkpoint.packed import model as packed
from hf_sparse.checkpoint.packed.entries import pack_layer, unpack
from hf_sparse.checkpoint.packed.model import load_packed, save_packed
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.quantized_layers import QuantizedLayer, quantized_layers
from hf_sparse.quantization.weights import is_short, read_weight_scheme
from tests.support.tiny import bert

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SCHEMES = ("int8_per_channel", "int8_per_tensor", "int4_per_channel", "int4_group_8", "int2_per_channel")
INPUTS = {"input_ids": torch.arange(5, 21).reshape(2, 8)}


def quantized(dtype: torch.dtype, weights: str = "int8_per_channel") -> BertForSequenceClassification:
    model = bert(num_hidden_layers=1).to(dtype).eval()
    calibrate(model, [INPUTS], weights)
    return model


def logits(model: BertForSequenceClassification) -> Tensor:
    with torch.no_grad():
        return model(**INPUTS).logits


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("then", DTYPES)
def test_a_model_that_was_cast_comes_back_as_it_is(
    first: torch.dtype, then: torch.dtype, tmp_path: Path
) -> None:
    model = quantized(first).to(then)
    save_packed(model, tmp_path / "once")
    loaded = load_packed(tmp_path / "once")
    assert torch.equal(logits(loaded), logits(model))
    expected = quantized_layers(model)
    for name, layer in quantized_layers(loaded).items():
        assert torch.equal(layer.codes, expected[name].codes)
        assert torch.equal(layer.scales, expected[name].scales)
    # And so does one that is cast after it was loaded.
    save_packed(loaded.to(first), tmp_path / "twice")
    assert torch.equal(logits(load_packed(tmp_path / "twice")), logits(loaded))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    casts=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4),
    text=st.sampled_from(SCHEMES),
    magnitude=st.floats(-12, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_weight_is_read_as_its_layer_computes_it(
    casts: list[torch.dtype], text: str, magnitude: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(4, 16, generator=generator, dtype=torch.float64) * 10**magnitude).to(casts[0])
    # As `attach` leaves it.
    scheme = replace(read_weight_scheme(text), exact=is_short(casts[0]))
    for dtype in casts:
        weight = weight.to(dtype)
    if not torch.isfinite(weight).all():
        return
    scales = scheme.scales(weight)
    layer = QuantizedLayer(scheme.codes(weight, scales), scales, scheme, "none", None, None, False)
    found = unpack(*_viewed(pack_layer("weight", weight, layer, "min_max", None)))
    computed = scheme.simulate(weight)
    assert found.dtype == weight.dtype and torch.equal(found, computed)
    again = scheme.suiting(found)
    assert torch.equal(again.simulate(found), computed)
    assert torch.equal(again.scales(found), scales) or not computed.any()


def _viewed(packed_entry: tuple) -> tuple:
    entry, content = packed_entry
    return entry, memoryview(content)


def test_what_would_not_come_back_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized(torch.float32)
    save_packed(model, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def damaging(name: str, weight: Tensor, layer: QuantizedLayer, *rest: object) -> tuple:
        if name.endswith("key.weight"):
            layer.codes[0, 0] += 1 if layer.codes[0, 0] < 100 else -1
        return pack_layer(name, weight, layer, *rest)

    monkeypatch.setattr(packed, "pack_layer", damaging)
    with pytest.raises(ValueError, match=r"key.weight does not come back as it was packed \(its values\)"):
        save_packed(model, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    with pytest.raises(ValueError, match="nothing was written"):
        save_packed(model, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_compressed_directory_that_does_not_hold_what_was_meant_is_not_kept(tmp_path: Path) -> None:
    model = quantized(torch.float32)

    class Rounding(BertForSequenceClassification):
        def save_pretrained(self, *args: object, state_dict: dict[str, Tensor], **more: object) -> None:
            scales = next(name for name in state_dict if name.endswith("weight_scale"))
            super().save_pretrained(*args, state_dict=state_dict | {scales: state_dict[scales] * 2}, **more)

    model.__class__ = Rounding
    with pytest.raises(ValueError, match="weight_scale does not come back as it was written"):
        save_compressed(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("save", [save_packed, save_compressed])
@pytest.mark.parametrize("name", ["classifier.bias", "bert.embeddings.word_embeddings.weight"])
def test_weights_that_are_not_finite_are_refused_by_name(save, name: str, tmp_path: Path) -> None:
    model = quantized(torch.float32)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[1] = torch.nan
    with pytest.raises(ValueError, match=f"{name} is not finite"):
        save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
