"""The teacher's decoder inputs equal those that the student derives from the labels."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import BertConfig, EncoderDecoderConfig, PreTrainedModel, ViTConfig

from hf_sparse.distillation.inputs import Taken, decoder_inputs, teacher_inputs

SIZES = {
    "vocab_size": 60,
    "d_model": 32,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_heads": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "d_kv": 16,
    "d_ff": 64,
    "max_position_embeddings": 64,
    "speech_encoder_layers": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
TEXTS = [
    "BartForConditionalGeneration",
    "BigBirdPegasusForConditionalGeneration",
    "BlenderbotForConditionalGeneration",
    "BlenderbotSmallForConditionalGeneration",
    "LEDForConditionalGeneration",
    "LongT5ForConditionalGeneration",
    "M2M100ForConditionalGeneration",
    "MBartForConditionalGeneration",
    "MT5ForConditionalGeneration",
    "MarianMTModel",
    "MvpForConditionalGeneration",
    "NllbMoeForConditionalGeneration",
    "PLBartForConditionalGeneration",
    "PegasusForConditionalGeneration",
    "PegasusXForConditionalGeneration",
    "SwitchTransformersForConditionalGeneration",
    "T5ForConditionalGeneration",
    "UMT5ForConditionalGeneration",
]
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def labels() -> Tensor:
    made = torch.randint(4, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    made[0, 4:] = -100
    return made


def text_model(name: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    kind = getattr(transformers, name)
    return kind(kind.config_class(**SIZES)), {"input_ids": torch.arange(4, 20).view(2, 8)}


def whisper() -> tuple[PreTrainedModel, dict[str, Tensor]]:
    config = transformers.WhisperConfig(
        **SIZES, num_mel_bins=8, max_source_positions=20, max_target_positions=20
    )
    return transformers.WhisperForConditionalGeneration(config), {"input_features": torch.randn(2, 8, 40)}


def speech2text() -> tuple[PreTrainedModel, dict[str, Tensor]]:
    config = transformers.Speech2TextConfig(**SIZES, input_feat_per_channel=8, conv_channels=16)
    return transformers.Speech2TextForConditionalGeneration(config), {"input_features": torch.randn(2, 40, 8)}


def composed(encoder: Any, decoder: Any) -> Any:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.pad_token_id, config.decoder_start_token_id = 0, 3
    return config


def encoder_decoder() -> tuple[PreTrainedModel, dict[str, Tensor]]:
    halves = [BertConfig(**SMALL, vocab_size=60) for _ in range(2)]
    model = transformers.EncoderDecoderModel(composed(*halves))
    return model, {"input_ids": torch.arange(4, 20).view(2, 8)}


def vision() -> tuple[PreTrainedModel, dict[str, Tensor]]:
    halves = ViTConfig(**SMALL, image_size=8, patch_size=4), BertConfig(**SMALL, vocab_size=60)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(*halves)
    config.pad_token_id, config.decoder_start_token_id = 0, 3
    return transformers.VisionEncoderDecoderModel(config), {"pixel_values": torch.randn(2, 3, 8, 8)}


MAKERS = {name: (lambda name=name: text_model(name)) for name in TEXTS} | {
    "WhisperForConditionalGeneration": whisper,
    "Speech2TextForConditionalGeneration": speech2text,
    "EncoderDecoderModel": encoder_decoder,
    "VisionEncoderDecoderModel": vision,
}


@pytest.mark.parametrize("name", MAKERS)
def test_without_labels_a_model_answers_as_it_does_with_them(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = MAKERS[name]()
    model.eval()
    inputs["labels"] = labels()
    with torch.no_grad():
        own = model(**inputs).logits
        ours = model(**teacher_inputs(inputs), **decoder_inputs(model, inputs)).logits
    assert own.shape[:2] == (2, 6)
    assert torch.equal(ours, own)


def decoding_classes() -> Iterator[type[PreTrainedModel]]:
    """Yield the generating classes whose decoder has separate inputs."""
    for name in dir(transformers):
        kind = getattr(transformers, name) if "For" in name or name.endswith("Model") else None
        generates = inspect.isclass(kind) and issubclass(kind, PreTrainedModel) and kind.can_generate()
        if generates and "decoder_input_ids" in inspect.signature(kind.forward).parameters:
            yield kind


def test_every_class_takes_the_labels_that_its_decoder_starts_from() -> None:
    kinds = list(decoding_classes())
    assert len(kinds) > 50
    unlabeled = {kind.__name__ for kind in kinds if "labels" not in Taken.by(object.__new__(kind)).names}
    # It is no encoder-decoder: its decoder denoises blocks of the text itself.
    assert unlabeled <= {"DiffusionGemmaForBlockDiffusion"}
