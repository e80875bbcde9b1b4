"""Models of images, sounds and pairs of sequences are exported with the inputs that optimum makes."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    PreTrainedModel,
    Speech2TextConfig,
    Speech2TextModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from hf_sparse.export.inputs import example_inputs, text_inputs
from hf_sparse.export.onnx import export_onnx

LAYERS = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 40,
}
HALVES = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "vocab_size": 50,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
CONVOLUTIONS = {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (20, 16)}
# Each with the shapes of what it reads, in two rows.
MODELS: dict[str, tuple[Callable[[], PreTrainedModel], dict[str, tuple[int, ...]]]] = {
    "images": (
        lambda: ViTForImageClassification(ViTConfig(image_size=24, patch_size=8, **LAYERS)),
        {"pixel_values": (2, 3, 24, 24)},
    ),
    "wave": (
        lambda: Wav2Vec2ForCTC(
            Wav2Vec2Config(
                vocab_size=20,
                num_feat_extract_layers=2,
                num_conv_pos_embeddings=8,
                num_conv_pos_embedding_groups=2,
                **LAYERS,
                **CONVOLUTIONS,
            )
        ),
        {"input_values": (2, 16000)},
    ),
    "spectrogram": (
        lambda: ASTForAudioClassification(ASTConfig(max_length=64, num_mel_bins=32, **LAYERS)),
        {"input_values": (2, 64, 32)},
    ),
    "speech to text": (
        lambda: WhisperForConditionalGeneration(
            WhisperConfig(
                num_mel_bins=12, max_source_positions=20, max_target_positions=20, **HALVES, **TOKENS
            )
        ),
        {"input_features": (2, 12, 40), "decoder_input_ids": (2, 6)},
    ),
    "features to text": (
        lambda: Speech2TextModel(
            Speech2TextConfig(
                input_feat_per_channel=8, conv_channels=16, max_source_positions=8000, **HALVES, **TOKENS
            )
        ),
        {"input_features": (2, 16000, 8), "decoder_input_ids": (2, 6)},
    ),
    "text to text": (
        lambda: T5ForConditionalGeneration(T5Config(vocab_size=50, **T5)),
        {"input_ids": (2, 8), "attention_mask": (2, 8), "decoder_input_ids": (2, 6)},
    ),
    "encoder-decoder": (
        lambda: BartModel(BartConfig(max_position_embeddings=30, **HALVES, **TOKENS)),
        {"input_ids": (2, 8), "attention_mask": (2, 8), "decoder_input_ids": (2, 6)},
    ),
}
# The others take longer, and differ in nothing that an export depends on.
EXPORTED = ("images", "speech to text", "text to text")


@pytest.mark.parametrize("name", MODELS)
def test_inputs_have_the_shapes_that_the_model_reads(name: str) -> None:
    pytest.importorskip("optimum")
    make, shapes = MODELS[name]
    model, state = make().eval(), torch.get_rng_state()
    inputs = example_inputs(model)
    assert {key: tuple(value.shape) for key, value in inputs.items()} == shapes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, inputs[key]) for key, value in example_inputs(model).items())


@pytest.mark.parametrize("name", EXPORTED)
def test_a_file_computes_the_same_for_other_sizes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("optimum")
    torch.manual_seed(0)
    make, shapes = MODELS[name]
    model = make().eval()
    exported = export_onnx(model, tmp_path / "model.onnx")
    assert exported.inputs == tuple(shapes)
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    # Three rows, and texts that are longer by half.
    inputs = {
        key: torch.randint(3, 50, (3, shape[1] * 3 // 2)) if len(shape) == 2 else torch.randn(3, *shape[1:])
        for key, shape in shapes.items()
    }
    if "attention_mask" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    found = session.run(None, {key: value.numpy() for key, value in inputs.items()})
    with torch.no_grad():
        expected = model(**inputs, use_cache=False) if "decoder_input_ids" in inputs else model(**inputs)
    for output, value in zip(exported.outputs, found, strict=True):
        assert np.abs(value - expected[output].numpy()).max() < 1e-4, output


def test_texts_need_no_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optimum", None)
    monkeypatch.setitem(sys.modules, "optimum.utils", None)
    inputs = example_inputs(BertModel(BertConfig(vocab_size=20, **LAYERS)))
    assert list(inputs) == ["input_ids", "attention_mask", "token_type_ids"]
    vit = MODELS["images"][0]()
    with pytest.raises(ValueError, match=r"ViTForImage.*with inputs.*without optimum; run pip install"):
        example_inputs(vit)


def test_models_that_read_something_else_are_refused() -> None:
    pytest.importorskip("optimum")
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "vocab_size": 50, "max_position_embeddings": 16}
    from transformers import BartForSequenceClassification, VideoMAEConfig, VideoMAEModel

    with pytest.raises(ValueError, match="with the inputs of optimum it fails"):
        example_inputs(BartForSequenceClassification(BartConfig(d_model=32, **sizes)))
    with pytest.raises(ValueError, match="with the inputs of optimum it fails"):
        example_inputs(VideoMAEModel(VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, **LAYERS)))
    with pytest.raises(ValueError, match="such inputs are not made here"):
        text_inputs(MODELS["text to text"][0]())
