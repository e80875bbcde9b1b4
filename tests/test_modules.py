"""Modules keep the names of their weights on disk inside any wrapper."""

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PrefixTuningConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from hf_sparse.modules import adapter_owner, base_prefix, has_adapter, saved_model
from hf_sparse.targets import find_targets
from tests.support.tiny import bert, llama

ADAPTER = "part of an adapter"
LAYERS = ["query", "value"]
KINDS = {
    "lora": LoraConfig(r=4, target_modules=LAYERS),
    "dora": LoraConfig(r=4, target_modules=LAYERS, use_dora=True),
    "every linear": LoraConfig(r=4, target_modules="all-linear"),
    "with a new head": LoraConfig(r=4, target_modules=LAYERS, task_type="SEQ_CLS"),
    "embeddings": LoraConfig(r=4, target_modules=["query", "word_embeddings"]),
    "loha": LoHaConfig(r=4, target_modules=LAYERS),
    "ia3": IA3Config(target_modules=LAYERS, feedforward_modules=[]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", [False, True])
def test_an_adapter_changes_neither_the_targets_nor_their_names(kind: str, added: bool) -> None:
    plain = find_targets(bert())
    model = bert()
    if added:
        model.add_adapter(KINDS[kind])
    else:
        model = get_peft_model(model, KINDS[kind])
    assert has_adapter(model)
    found = find_targets(model)
    assert found.shapes == plain.shapes
    reasons = {entry.name: entry.reason for entry in found.left_out}
    assert {name: reasons[name] for name in ("classifier", "bert.pooler.dense")} == {
        entry.name: entry.reason for entry in plain.left_out
    }
    assert set(reasons.values()) - {ADAPTER} == {entry.reason for entry in plain.left_out}
    inside = {
        id(part)
        for module in model.modules()
        if isinstance(module, BaseTunerLayer)
        for part in module.modules()
        if part is not module.get_base_layer()
    }
    assert not any(id(target.module) in inside for target in found)


def test_two_adapters_are_as_one() -> None:
    model = get_peft_model(bert(), KINDS["lora"])
    model.add_adapter("second", KINDS["with a new head"])
    assert find_targets(model).names == find_targets(bert()).names


def test_a_prompt_that_is_learned_is_an_adapter_too() -> None:
    config = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM", prefix_projection=True)
    model = get_peft_model(llama(), config)
    found = find_targets(model)
    assert found.names == find_targets(llama()).names and has_adapter(model)
    assert {entry.reason for entry in found.left_out if "prompt" in entry.name} == {ADAPTER}


def test_names_in_a_recipe_are_those_without_the_adapter() -> None:
    model = get_peft_model(bert(), KINDS["lora"])
    found = find_targets(model, include=[r"^bert\.encoder\.layer\.0\.attention\.self\.query$"])
    assert found.names == ["bert.encoder.layer.0.attention.self.query.weight"]
    with pytest.raises(ValueError, match="nothing to prune"):
        find_targets(model, include=["lora_A"])


def test_merged_and_unloaded_a_model_carries_no_adapter() -> None:
    assert not has_adapter(get_peft_model(bert(), KINDS["every linear"]).merge_and_unload())
    assert not has_adapter(bert())


def test_the_owner_of_an_adapter_is_the_library_that_put_it_on() -> None:
    added = bert()
    added.add_adapter(KINDS["lora"])
    assert (adapter_owner(added), adapter_owner(bert())) == ("transformers", None)
    assert adapter_owner(get_peft_model(bert(), KINDS["lora"])) == "peft"
    assert adapter_owner(get_peft_model(bert(), KINDS["lora"]).base_model.model) == "peft"


class Adapted(nn.Module):
    """A hand-written adapter."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 4, bias=False)
        self.up = nn.Linear(4, base.out_features, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.base_layer(inputs) + self.up(self.down(inputs))


def test_an_adapter_made_by_hand_is_known_by_what_it_wraps() -> None:
    model = bert()
    attention = model.bert.encoder.layer[1].attention.self
    attention.key = Adapted(attention.key)
    found = find_targets(model)
    assert found.names == find_targets(bert()).names
    assert [entry.name for entry in found.left_out if entry.reason == ADAPTER] == [
        "bert.encoder.layer.1.attention.self.key.down",
        "bert.encoder.layer.1.attention.self.key.up",
    ]


def test_the_base_model_is_found_under_an_adapter() -> None:
    model = get_peft_model(bert(), KINDS["lora"])
    assert base_prefix(model) == base_prefix(bert()) == "bert"
    assert saved_model(model) is model.get_base_model()
