"""Tiny models, tokenizers and texts for Trainers of other libraries."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from hf_sparse import Recipe, measure_sparsity
from tests.support.tiny import SIZES, VOCABULARY

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *(f"w{number}" for number in range(VOCABULARY - len(SPECIAL)))]
# What every training of these tests has in common.
ARGUMENTS = {
    "max_steps": 6,
    "save_steps": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "report_to": [],
}
RECIPE = Recipe.from_dict(
    {"sparsity": {"method": "magnitude", "schedule": {"final": 0.8, "ramp_end": "50%", "every": 1}}}
)


def llama(seed: int = 0, kind: type = LlamaForCausalLM) -> LlamaForCausalLM | LlamaForSequenceClassification:
    torch.manual_seed(seed)
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "num_labels": 1}
    return kind(LlamaConfig(**SIZES | {"num_hidden_layers": 1}, num_key_value_heads=2, **special))


def words() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word, for decoders."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **named)


def saved_bert(folder: Path, kind: type = BertModel, seed: int = 0, **config: Any) -> str:
    """Write an encoder with its tokenizer; weights are large enough that pooling and rounding show."""
    torch.manual_seed(seed)
    sizes = SIZES | {"num_hidden_layers": 1, "initializer_range": 0.2}
    kind(BertConfig(**sizes, **config)).save_pretrained(folder)
    BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    return str(folder)


def saved_classifier(folder: Path, seed: int = 0) -> str:
    return saved_bert(folder, BertForSequenceClassification, seed, num_labels=1)


def text(number: int) -> str:
    return " ".join(f"w{(number * 7 + place) % 90}" for place in range(4 + number % 5))


def texts(count: int = 24) -> Dataset:
    return Dataset.from_dict({"text": [text(number) for number in range(count)]})


def pairs(count: int = 24) -> Dataset:
    """Pairs of texts and their similarity."""
    return Dataset.from_dict(
        {
            "sentence1": [text(number) for number in range(count)],
            "sentence2": [text(number + 3) for number in range(count)],
            "score": [float(number % 2) for number in range(count)],
        }
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def sparsity_of(model: nn.Module) -> float:
    return round(measure_sparsity(model).overall, 2)
