"""Embedding tables of few bits: rows equal those of a rounded table, formats keep them, ties are refused."""

from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BartModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from hf_sparse import Recipe, SparseTrainer, find_targets
from hf_sparse.checkpoint.compressed_tensors import save_compressed
from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.packed.model import load_packed, save_packed
from hf_sparse.export.onnx import export_onnx
from hf_sparse.export.openvino import export_openvino
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.convert import attach, detach
from hf_sparse.quantization.embeddings import FakeQuantEmbedding, find_embeddings
from hf_sparse.quantization.fake_layers import Phase
from hf_sparse.quantization.quantized_layers import quantized_layers
from hf_sparse.quantization.weights import read_weight_scheme
from tests.support.tiny import arguments, bert, llama, sentences

SCHEMES = ["int8_per_channel", "int8_per_tensor", "int4_group_8"]
TABLES = {f"bert.embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")}


def gpt2(kind: type[PreTrainedModel] = GPT2ForSequenceClassification) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 100}
    return kind(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.2))


def distilbert() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "vocab_size": 100}
    return DistilBertForSequenceClassification(DistilBertConfig(**sizes, initializer_range=0.2))


def small_bert() -> PreTrainedModel:
    return bert(num_hidden_layers=1, initializer_range=0.2)


def batch(rows: int = 8) -> dict[str, torch.Tensor]:
    chosen = sentences(rows)
    return {name: torch.stack([row[name] for row in chosen]) for name in ("input_ids", "attention_mask")}


def calibrated(model: PreTrainedModel, embeddings: str = "int8_per_channel") -> PreTrainedModel:
    # Of 7 bits: processors without VNNI would add two products in 16 bits, which some do not fit.
    calibrate(model.eval(), [batch()], "int7_per_channel", embeddings=embeddings)
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch()).logits


def table(scheme: str = "int8_per_channel", **how: bool) -> nn.Embedding:
    torch.manual_seed(0)
    module = nn.Module()
    module.table = nn.Embedding(20, 16, padding_idx=3, **how)
    attach(find_embeddings(module), read_weight_scheme(scheme), "none", "min_max", Phase())
    return module.table


@pytest.mark.parametrize("scheme", SCHEMES)
def test_looked_up_rows_are_those_of_the_rounded_table(scheme: str) -> None:
    rows, indices = table(scheme), torch.tensor([[1, 3], [19, 1]])
    assert type(rows) is FakeQuantEmbedding
    rounded = read_weight_scheme(scheme).simulate(rows.weight)
    assert not torch.equal(rounded, rows.weight)
    assert torch.equal(rows(indices), rounded[indices])
    assert rows(torch.empty(0, dtype=torch.long)).shape == (0, 16)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_are_those_of_a_plain_table(sparse: bool) -> None:
    rows, indices = table(sparse=sparse), torch.tensor([1, 3, 19, 1])
    plain, upstream = nn.Embedding(20, 16, padding_idx=3), torch.randn(4, 16)
    rows(indices).backward(upstream), plain(indices).backward(upstream)
    assert rows.weight.grad.is_sparse == sparse
    assert torch.equal(rows.weight.grad.to_dense(), plain.weight.grad)
    assert not plain.weight.grad[3].any()


def test_it_rounds_in_its_phase_only_and_gives_the_table_back() -> None:
    model, phase = small_bert(), Phase(active=False)
    expected = logits(model)
    attach(find_embeddings(model), read_weight_scheme("int4_per_channel"), "none", "min_max", phase)
    assert torch.equal(logits(model), expected)
    phase.active = True
    assert not torch.allclose(logits(model), expected)
    detach(model)
    assert torch.equal(logits(model), expected)
    assert type(model.bert.embeddings.word_embeddings) is nn.Embedding


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (small_bert, TABLES),
        (distilbert, {f"distilbert.embeddings.{kind}_embeddings" for kind in ("word", "position")}),
        (gpt2, {"transformer.wte", "transformer.wpe"}),
        (llama, {"model.embed_tokens"}),
    ],
)
def test_all_tables_of_the_base_model_are_found(make, names: set[str]) -> None:
    assert {found.name.removesuffix(".weight") for found in find_embeddings(make())} == names


def test_tables_of_relative_positions_are_left_alone() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 100}
    model = DebertaV2Model(DebertaV2Config(**sizes, relative_attention=True, position_biased_input=False))
    assert type(model.encoder.rel_embeddings) is nn.Embedding
    assert [found.name for found in find_embeddings(model)] == ["embeddings.word_embeddings.weight"]


def test_ties_and_models_without_tables_are_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"transformer.wte.weight is tied to lm_head, which .* or untie them"
    ):
        calibrate(gpt2(GPT2LMHeadModel), [batch()], embeddings="int8_per_channel")
    with pytest.raises(ValueError, match=r"Linear lacks embeddings of class nn.Embedding; leave"):
        find_embeddings(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="int4_group_5 does not cover bert.embeddings.word_embeddings"):
        calibrate(small_bert(), [batch()], embeddings="int4_group_5")
    with pytest.raises(ValueError, match="'int9' is not a scheme of weights"):
        Recipe.from_dict({"quantization": {"embeddings": "int9"}})


def test_what_is_refused_leaves_the_model_plain() -> None:
    model = gpt2(GPT2LMHeadModel)
    with pytest.raises(ValueError, match="is tied to lm_head"):
        calibrate(model, [batch()], embeddings="int8_per_channel")
    assert not quantized_layers(model)


def test_subclasses_that_do_more_than_look_up_are_left_alone() -> None:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 100}
    with pytest.raises(ValueError, match="lacks embeddings of class"):
        find_embeddings(BartModel(BartConfig(**sizes, encoder_ffn_dim=64, decoder_ffn_dim=64)).encoder)


def test_they_are_layers_without_inputs() -> None:
    layers = quantized_layers(calibrated(small_bert(), "int8_per_tensor"))
    found = {name: layer for name, layer in layers.items() if layer.embedding}
    assert found.keys() == TABLES and len(layers) == len(found) + 6
    words = found["bert.embeddings.word_embeddings"]
    assert words.codes.shape == (100, 32) and words.scales.shape == (1, 1)
    assert words.activations == "none" and words.input_scale is None


def test_trained_saved_and_loaded_with_their_rounding(tmp_path: Path) -> None:
    recipe = Recipe.preset("prune_ofa_90").override(
        ["sparsity.schedule.every=1", "quantization={embeddings: int8_per_channel, begin: 3}"]
    )
    model = bert()
    trainer = SparseTrainer(
        model=model, args=arguments(tmp_path), train_dataset=sentences(), recipe=recipe, teacher=bert(seed=1)
    )
    before = logits(model)
    assert torch.equal(before, logits(bert()))
    trainer.train()
    trainer.save_model()
    found = load_model(str(tmp_path))
    assert type(found.bert.embeddings.word_embeddings) is FakeQuantEmbedding
    assert torch.equal(logits(found), logits(trainer.model))
    # No mask lies on a table.
    assert (found.bert.embeddings.word_embeddings.weight == 0).sum() <= 32
    assert "embeddings" not in "".join(find_targets(found).names)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("make", [small_bert, distilbert, gpt2])
def test_packed_and_back(tmp_path: Path, make, scheme: str) -> None:
    model = calibrated(make(), scheme)
    sizes = save_packed(model, tmp_path / "small")
    restored = load_packed(tmp_path / "small")
    assert torch.equal(logits(restored), logits(model))
    found, expected = quantized_layers(restored), quantized_layers(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].codes, expected[name].codes) for name in found)
    assert sum(layer.embedding for layer in found.values()) == len(find_embeddings(make()))
    detach(model)
    calibrate(model, [batch()], "int7_per_channel")
    assert sizes.file_bytes < 0.7 * save_packed(model, tmp_path / "large").file_bytes
    assert (
        type(load_packed(tmp_path / "small", dequantize=True).base_model.get_input_embeddings())
        is nn.Embedding
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compressed_tensors_hold_rounded_floats(tmp_path: Path, scheme: str) -> None:
    model = calibrated(small_bert(), scheme)
    save_compressed(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    for name in TABLES:
        rounded = quantized_layers(model)[name].weight()
        assert stored[f"{name}.weight"].dtype == torch.float32
        assert torch.equal(stored[f"{name}.weight"], rounded)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.allclose(logits(loaded), logits(model), atol=1e-4)


@pytest.mark.parametrize(
    ("make", "scheme"),
    [(small_bert, "int8_per_channel"), (distilbert, "int4_group_8"), (gpt2, "int8_per_tensor")],
)
def test_runtimes_look_up_integers_and_agree(tmp_path: Path, make, scheme: str) -> None:
    model = calibrated(make(), scheme)
    exported = export_onnx(model, tmp_path / "model.onnx")
    export_openvino(model, tmp_path / "openvino")
    inputs = batch(3) | {"token_type_ids": torch.zeros(3, 12, dtype=torch.long)}
    inputs = {name: inputs[name] for name in exported.inputs}
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    arrays = {name: value.numpy() for name, value in inputs.items()}
    (found,) = onnxruntime.InferenceSession(exported.path).run(["logits"], arrays)
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    running = openvino.Core().compile_model(tmp_path / "openvino" / "openvino_model.xml", "CPU", settings)
    assert np.abs(running(arrays)["logits"] - expected).max() < 1e-2 * np.abs(expected).max()


def test_exported_files_are_smaller(tmp_path: Path) -> None:
    sizes = {}
    for scheme in (None, "int8_per_channel"):
        model = calibrated(bert(num_hidden_layers=1, vocab_size=20_000), scheme)
        export_openvino(model, tmp_path / str(scheme))
        sizes[scheme] = (
            export_onnx(model, tmp_path / "model.onnx").path.stat().st_size,
            (tmp_path / str(scheme) / "openvino_model.bin").stat().st_size,
        )
    # 640,000 numbers of one byte instead of four, and 20,000 scales.
    for large, small in zip(sizes[None], sizes["int8_per_channel"], strict=True):
        assert large - small > 1_800_000
