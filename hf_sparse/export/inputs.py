"""Example batches to export models with: of texts our own, of images, sounds and sequence pairs optimum's."""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

_BATCH, _TOKENS, _DECODER_TOKENS = 2, 8, 6
# By type of model or name of input, the class of optimum that makes it.
_GENERATORS = {
    "audio-spectrogram-transformer": "ASTDummyAudioInputGenerator",
    "speech_to_text": "Speech2TextDummyAudioInputGenerator",
    "input_ids": "DummyTextInputGenerator",
    "attention_mask": "DummyTextInputGenerator",
    "decoder_input_ids": "DummySeq2SeqDecoderTextInputGenerator",
    "input_features": "DummyAudioInputGenerator",
    "input_values": "DummyAudioInputGenerator",
    "pixel_values": "DummyVisionInputGenerator",
}


def text_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return a batch (2, 8) of the inputs that the tokenizer of a text model makes.

    Raises `ValueError` for models that need other inputs.
    """
    if not _reads_texts_alone(model):
        raise _more_than_texts(model, "such inputs are not made here")
    accepted = inspect.signature(model.forward).parameters
    names = [name for name in ("input_ids", "attention_mask") if name in accepted]
    if getattr(model.config, "type_vocab_size", 0) > 1 and "token_type_ids" in accepted:
        names.append("token_type_ids")
    return {name: torch.ones(_BATCH, _TOKENS, dtype=torch.long, device=model.device) for name in names}


def example_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return two rows to export a model in evaluation mode with; made by optimum, unless they are texts.

    Raises `ValueError` for a model whose inputs optimum does not know, or without optimum.
    """
    if _reads_texts_alone(model):
        return text_inputs(model)
    names = [model.main_input_name]
    accepted = inspect.signature(model.forward).parameters
    if names == ["input_ids"]:
        names.append("attention_mask")
    if model.config.is_encoder_decoder and "decoder_input_ids" in accepted:
        names.append("decoder_input_ids")
    if unknown := [name for name in names if name not in _GENERATORS]:
        raise _more_than_texts(model, f"optimum is not asked for {unknown[0]}")
    # A batch that a model cannot read is one that optimum has made for others.
    try:
        made = {name: _made(model, name) for name in names}
        with torch.no_grad():
            model(**made)
    except ImportError as error:
        raise _more_than_texts(model, 'without optimum; run pip install "hf_sparse[export]"') from error
    # Models raise errors of any class.
    except Exception as error:  # noqa: BLE001
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise _more_than_texts(model, f"with the inputs of optimum it fails: {reason}") from error
    return made


def _reads_texts_alone(model: PreTrainedModel) -> bool:
    return model.main_input_name == "input_ids" and not model.config.is_encoder_decoder


def _more_than_texts(model: PreTrainedModel, reason: str) -> ValueError:
    return ValueError(
        f"{type(model).__name__} reads more than a tokenizer makes; call export_onnx in Python with inputs, "
        f"an example batch of at least two rows with all the model needs ({reason})"
    )


def _made(model: PreTrainedModel, name: str) -> Tensor:
    """Return one input of a model, always with the same values, as optimum makes it."""
    from optimum.utils import NormalizedConfig, NormalizedConfigManager, input_generators

    config: Any = model.config
    try:
        normalized = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    except KeyError:
        # It looks settings up under their own names, and then in `attribute_map`.
        normalized = NormalizedConfig(config)
    kind = _GENERATORS[name]
    if name in ("input_features", "input_values"):
        kind = _GENERATORS.get(config.model_type, kind)
    shapes = {"sequence_length": _DECODER_TOKENS if name.startswith("decoder_") else _TOKENS}
    if hasattr(config, "num_mel_bins"):
        shapes["feature_size"] = config.num_mel_bins
    if config.model_type == "whisper":
        # It reads exactly this many frames.
        shapes["nb_max_frames"] = 2 * config.max_source_positions
    generator = getattr(input_generators, kind)("", normalized, batch_size=_BATCH, **shapes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: Tensor = generator.generate(name, framework="pt")
    # How many tokens its masks leave out is up to chance, and not to PyTorch's.
    return (torch.ones_like(made) if name == "attention_mask" else made).to(model.device)
