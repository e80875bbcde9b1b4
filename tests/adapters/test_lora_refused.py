"""Settings and weights that a masked adapter refuses."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.adapters.adapted import masked, plain, sparse_bert


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora=True .* write LoraConfig"),
        ({"alora_invocation_tokens": [1]}, r"alora_invocation_tokens=\[1\]"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters="),
        ({"layer_replication": [(0, 1), (0, 1)]}, "layer_replication="),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' .* fills its zeros; write one of True"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"keep_zeros": False}, "keep_zeros=False is an ordinary adapter; write LoraConfig"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_settings_that_fill_zeros_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        masked(**change)


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal"])
def test_first_values_that_leave_the_base_alone_are_taken(init: bool | str) -> None:
    model = get_peft_model(sparse_bert(), masked(init_lora_weights=init))
    query = model.base_model.model.bert.encoder.layer[0].attention.self.query
    assert torch.equal(
        query.base_layer.weight, sparse_bert().bert.encoder.layer[0].attention.self.query.weight
    )


def test_what_is_no_linear_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_zeros"):
        get_peft_model(sparse_bert(), masked(target_modules=["word_embeddings"]))


def test_an_update_on_top_of_one_that_is_not_masked_is_refused() -> None:
    model = get_peft_model(sparse_bert(), plain())
    with pytest.raises(ValueError, match="keep_zeros"):
        model.add_adapter("masked", masked())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda module: module.to("meta"), "the weight of .*query is not loaded"),
        (lambda module: setattr(module, "weight", Tagged(module.weight.detach())), "is kept as Tagged"),
    ],
)
def test_a_weight_whose_zeros_cannot_be_seen_is_refused(spoil: Any, said: str) -> None:
    model = sparse_bert()
    spoil(model.bert.encoder.layer[0].attention.self.query)
    with pytest.raises(ValueError, match=f"{said}.*load the base with plain weights"):
        get_peft_model(model, masked())


class Tagged(nn.Parameter):
    """A weight of another kind, as libraries of few bits have them."""


def test_an_ordinary_configuration_is_left_as_it_is() -> None:
    assert LoraConfig(use_dora=True).to_dict()["peft_type"] == "LORA"
