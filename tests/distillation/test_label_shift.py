"""Whether labels are shifted depends on the loss of a model, not on the name of its class."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    XLNetConfig,
    XLNetLMHeadModel,
)
from transformers.loss.loss_utils import ForMaskedLMLoss

from hf_sparse.distillation.inputs import shifts_labels
from tests.support.pairs import encoder_decoder, make

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


class Mine(LlamaForCausalLM):
    """A causal model with an arbitrary name."""


class MyMaskedLM(BertForMaskedLM):
    """A masked language model with an arbitrary name."""


class Around(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Any:
        return self.model(**inputs)


def llama(kind: type = LlamaForCausalLM) -> nn.Module:
    return kind(LlamaConfig(**SIZES, vocab_size=60, num_key_value_heads=2))


def bert(kind: type, **config: Any) -> nn.Module:
    return kind(BertConfig(**SIZES, vocab_size=60, **config))


def adapted() -> nn.Module:
    return get_peft_model(llama(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))


def given_a_loss(model: nn.Module) -> nn.Module:
    model.loss_function = ForMaskedLMLoss
    return model


def bart() -> nn.Module:
    heads = {
        f"{stack}_{what}": 2 for stack in ("encoder", "decoder") for what in ("attention_heads", "layers")
    }
    return BartForCausalLM(BartConfig(vocab_size=60, d_model=32, decoder_ffn_dim=64, **heads))


MAKERS: dict[str, tuple[bool, Callable[[], nn.Module]]] = {
    "causal": (True, llama),
    "derived": (True, lambda: llama(Mine)),
    "adapted": (True, adapted),
    "adapted and derived": (True, lambda: get_peft_model(llama(Mine), LoraConfig(target_modules=["q_proj"]))),
    "wrapped": (True, lambda: Around(llama(Mine))),
    "compiled": (True, lambda: torch.compile(llama(), backend="eager")),
    "of another name": (
        True,
        lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=60)),
    ),
    "decoding": (True, lambda: bert(BertLMHeadModel, is_decoder=True)),
    "with another loss": (False, lambda: given_a_loss(llama())),
    "causal with a loss of its own": (False, bart),
    "permuted": (
        False,
        lambda: XLNetLMHeadModel(XLNetConfig(vocab_size=60, d_model=32, n_layer=1, n_head=2, d_inner=64)),
    ),
    "masked": (False, lambda: bert(BertForMaskedLM)),
    "masked and derived": (False, lambda: bert(MyMaskedLM)),
    "masked by a loss function": (
        False,
        lambda: ModernBertForMaskedLM(
            ModernBertConfig(**SIZES, vocab_size=60, pad_token_id=0, attn_implementation="eager")
        ),
    ),
    "encoder-decoder": (False, lambda: encoder_decoder("t5", 0, (1, 1))),
}


@pytest.mark.parametrize("name", MAKERS)
def test_labels_are_shifted_where_the_first_one_does_not_count(name: str) -> None:
    expected, maker = MAKERS[name]
    model = maker()
    labels = torch.full((1, 6), -100)
    labels[0, 0] = 5
    # The mean over no label is not a number.
    assert model(input_ids=torch.arange(4, 10)[None], labels=labels).loss.isnan().item() == expected
    assert shifts_labels(model) == expected


@pytest.mark.parametrize("model", [make("bert"), nn.Linear(2, 2)], ids=["classifier", "no model"])
def test_nothing_is_shifted_where_there_are_no_labels_of_tokens(model: nn.Module) -> None:
    assert not shifts_labels(model)
