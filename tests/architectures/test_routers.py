"""What chooses among the experts of a mixture is never pruned."""

import pytest
from torch import nn
from transformers import (
    PhimoeConfig,
    PhimoeForCausalLM,
    PreTrainedModel,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)

from hf_sparse import find_targets
from tests.support.zoo import MIXTURE, architecture

SWITCH = {"vocab_size": 50, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}


def phimoe() -> PreTrainedModel:
    return PhimoeForCausalLM(PhimoeConfig(**MIXTURE, num_local_experts=4))


def switch() -> PreTrainedModel:
    return SwitchTransformersForConditionalGeneration(SwitchTransformersConfig(**SWITCH, num_experts=4))


@pytest.mark.parametrize(
    "make",
    [
        phimoe,
        switch,
        *(architecture(name).model for name in ("Mixtral", "Qwen2-MoE", "GPT-OSS", "Llama 4")),
    ],
    ids=["Phi-MoE", "Switch", "Mixtral", "Qwen2-MoE", "GPT-OSS", "Llama 4"],
)
def test_no_router_of_a_mixture_is_a_target(make) -> None:
    model = make()
    routers = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if any("router" in part or part.endswith("gate") for part in name.split("."))
    }
    assert routers
    assert not routers & {id(target.parameter) for target in find_targets(model)}


class Block(nn.Module):
    """A gate made of two Linears beside experts that are Linears themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        self.experts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.gate_proj = nn.Linear(4, 4)


class Gated(nn.Module):
    """A gate that chooses among no experts: a matrix like any other."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 4)


def layers() -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleList([Block(), Gated()])
    return model


def test_a_gate_is_a_router_only_beside_experts() -> None:
    targets = find_targets(layers())
    assert targets.names == [
        "layers.0.experts.0.weight",
        "layers.0.experts.1.weight",
        "layers.0.gate_proj.weight",
        "layers.1.gate.weight",
    ]
    assert {entry.name: entry.reason for entry in targets.left_out} == {
        "layers.0.gate.0": "router: chooses among experts",
        "layers.0.gate.1": "router: chooses among experts",
    }


def test_a_router_is_pruned_only_when_it_is_included_by_name() -> None:
    assert find_targets(layers(), include=["gate.0"]).names == ["layers.0.gate.0.weight"]
