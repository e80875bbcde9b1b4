"""The architectures that are tested, each as a tiny random model with data it can learn from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MPNetConfig,
    MPNetForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
    default_data_collator,
)

from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.targets import find_targets
from tests.support.tiny import VOCABULARY, sentences, texts

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WORDS = {"vocab_size": VOCABULARY, "pad_token_id": 0}
ENCODER = SIZES | WORDS
# Fewer heads of keys and values than of queries, as large decoders have.
DECODER = SIZES | WORDS | SPECIAL | {"num_attention_heads": 4, "num_key_value_heads": 2}
MIXTURE = DECODER | {"num_experts_per_tok": 2}


def images(count: int = 32, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Images of 8 x 8 pixels, dark ones and bright ones."""
    noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return [
        {"pixel_values": pixels + index % 2, "labels": torch.tensor(index % 2)}
        for index, pixels in enumerate(noise)
    ]


def sounds(count: int = 32, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Noise of 400 samples, quiet and loud."""
    noise = torch.randn(count, 400, generator=torch.Generator().manual_seed(seed))
    return [
        {"input_values": samples * (1 + index % 2), "labels": torch.tensor(index % 2)}
        for index, samples in enumerate(noise)
    ]


@dataclass(frozen=True)
class Architecture:
    """One kind of model: its name, its class, what it is made by, what it learns from."""

    name: str
    kind: type[PreTrainedModel]
    config: Callable[..., PreTrainedConfig]
    settings: dict[str, Any]
    data: Callable[[], list[dict[str, torch.Tensor]]]

    def model(self) -> PreTrainedModel:
        """Make the model, with the same random weights every time."""
        torch.manual_seed(0)
        # A copy: some configurations take values out of what they are given, or keep it.
        return self.kind(self.config(**dict(self.settings)))


ARCHITECTURES = [
    Architecture("BERT", BertForSequenceClassification, BertConfig, ENCODER, sentences),
    Architecture(
        "BERT-Large, 24 layers",
        BertForMaskedLM,
        BertConfig,
        ENCODER | {"num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 128},
        texts,
    ),
    Architecture("RoBERTa", RobertaForSequenceClassification, RobertaConfig, ENCODER, sentences),
    Architecture(
        "DistilBERT",
        DistilBertForSequenceClassification,
        DistilBertConfig,
        WORDS | {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
        sentences,
    ),
    Architecture(
        "ELECTRA",
        ElectraForSequenceClassification,
        ElectraConfig,
        ENCODER | {"embedding_size": 16},
        sentences,
    ),
    Architecture(
        "ALBERT", AlbertForSequenceClassification, AlbertConfig, ENCODER | {"embedding_size": 16}, sentences
    ),
    Architecture(
        "DeBERTa-v2",
        DebertaV2ForSequenceClassification,
        DebertaV2Config,
        ENCODER
        | {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "max_relative_positions": 16,
            "conv_kernel_size": 3,
        },
        sentences,
    ),
    Architecture("MPNet", MPNetForSequenceClassification, MPNetConfig, ENCODER, sentences),
    Architecture(
        "T5",
        T5ForConditionalGeneration,
        T5Config,
        WORDS
        | {
            "d_model": 32,
            "d_kv": 16,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 2,
            "feed_forward_proj": "gated-gelu",
            "decoder_start_token_id": 0,
        },
        texts,
    ),
    Architecture(
        "BART",
        BartForConditionalGeneration,
        BartConfig,
        WORDS
        | SPECIAL
        | {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 64,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        },
        texts,
    ),
    Architecture(
        "GPT-2",
        GPT2LMHeadModel,
        GPT2Config,
        WORDS | SPECIAL | {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
        texts,
    ),
    Architecture("Llama", LlamaForCausalLM, LlamaConfig, DECODER | {"tie_word_embeddings": False}, texts),
    Architecture(
        "Qwen3",
        Qwen3ForCausalLM,
        Qwen3Config,
        DECODER | {"head_dim": 8, "tie_word_embeddings": True},
        texts,
    ),
    Architecture("Mistral", MistralForCausalLM, MistralConfig, DECODER, texts),
    Architecture("Mixtral", MixtralForCausalLM, MixtralConfig, MIXTURE | {"num_local_experts": 4}, texts),
    Architecture(
        "Qwen2-MoE",
        Qwen2MoeForCausalLM,
        Qwen2MoeConfig,
        MIXTURE | {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 48},
        texts,
    ),
    Architecture(
        "GPT-OSS",
        GptOssForCausalLM,
        GptOssConfig,
        MIXTURE | {"head_dim": 8, "num_local_experts": 4},
        texts,
    ),
    Architecture(
        "Llama 4",
        Llama4ForCausalLM,
        Llama4TextConfig,
        MIXTURE
        | {"head_dim": 8, "num_local_experts": 4, "intermediate_size_mlp": 64, "num_experts_per_tok": 1},
        texts,
    ),
    Architecture(
        "ViT", ViTForImageClassification, ViTConfig, SIZES | {"image_size": 8, "patch_size": 4}, images
    ),
    Architecture(
        "wav2vec 2.0",
        Wav2Vec2ForSequenceClassification,
        Wav2Vec2Config,
        ENCODER
        | {
            "conv_dim": (16, 16),
            "conv_kernel": (10, 3),
            "conv_stride": (5, 2),
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
            "classifier_proj_size": 16,
            # Spans to mask are longer than these sounds.
            "apply_spec_augment": False,
        },
        sounds,
    ),
]


def architecture(name: str) -> Architecture:
    return next(entry for entry in ARCHITECTURES if entry.name == name)


# Their experts are parameters of three dimensions, and stay floats.
MIXTURES = ["Mixtral", "Qwen2-MoE", "GPT-OSS"]


def calibrated(name: str) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """Return a small model of an architecture in 8 bits, and the batch that it was calibrated with."""
    entry = architecture(name)
    model = entry.model().eval()
    model.config.use_cache = False
    batch = default_data_collator(entry.data()[:8])
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["labels"].clamp(min=0)
    del batch["labels"]
    targets = find_targets(model, exclude=[r"experts\."] if name in MIXTURES else ())
    calibrate(model, [batch], targets=targets)
    return model, batch
