"""Random texts that any model of texts can be timed with."""

import pytest
import torch
from transformers import (
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
    XLNetConfig,
    XLNetModel,
)

from hf_sparse.benchmark.inputs import random_inputs
from tests.support.tiny import SIZES, VOCABULARY, bert, llama


def test_tokens_are_random_within_the_vocabulary_and_always_the_same() -> None:
    model = bert()
    inputs = random_inputs(model, 40, 100)
    assert list(inputs) == ["input_ids", "attention_mask", "token_type_ids"]
    assert all(value.shape == (40, 100) and value.dtype == torch.long for value in inputs.values())
    # The padding token of BERT is 0.
    assert inputs["input_ids"].unique().tolist() == list(range(1, VOCABULARY))
    assert inputs["attention_mask"].all() and not inputs["token_type_ids"].any()
    torch.manual_seed(5)
    assert torch.equal(random_inputs(model, 40, 100)["input_ids"], inputs["input_ids"])


def test_decoders_are_given_what_they_read() -> None:
    assert list(random_inputs(llama(), 1, 3)) == ["input_ids", "attention_mask"]


def roberta() -> PreTrainedModel:
    return RobertaModel(RobertaConfig(**SIZES, max_position_embeddings=16, pad_token_id=1)).eval()


def test_as_many_tokens_as_there_are_positions_and_no_more() -> None:
    for model, most in ((bert(max_position_embeddings=12), 12), (roberta(), 14)):
        model(**random_inputs(model, 2, most))
        with pytest.raises(ValueError, match=f"{most + 1} tokens are more than the {most} "):
            random_inputs(model, 2, most + 1)


def test_models_without_positions_take_any_length() -> None:
    model = XLNetModel(XLNetConfig(vocab_size=50, d_model=32, n_layer=1, n_head=2, d_inner=64))
    assert random_inputs(model, 1, 700)["input_ids"].shape == (1, 700)


@pytest.mark.parametrize("kind", ["vit", "t5"])
def test_models_of_anything_else_are_refused(kind: str) -> None:
    if kind == "vit":
        sizes = {name: value for name, value in SIZES.items() if name != "vocab_size"}
        model = ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4))
    else:
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
        model = T5ForConditionalGeneration(T5Config(**sizes))
    with pytest.raises(ValueError, match=f"{type(model).__name__} does not read texts alone"):
        random_inputs(model, 1, 8)
