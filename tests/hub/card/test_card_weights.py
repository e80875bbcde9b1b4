"""How the weights of a directory are rounded, as its configuration says."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_sparse.hub.card.card_data import Quantization
from hf_sparse.hub.card.weights import quantization_of
from tests.support.tiny import bert

WEIGHTS = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False}
TOKENS = WEIGHTS | {"strategy": "token", "dynamic": True}
RANGES = WEIGHTS | {"strategy": "tensor", "symmetric": False}


def found(directory: Path, *groups: Any) -> Quantization | None:
    named = {f"group_{number}": group for number, group in enumerate(groups)}
    config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": named}}
    (directory / "config.json").write_text(json.dumps(config))
    return quantization_of(bert(), directory)


@pytest.mark.parametrize(
    ("weights", "inputs", "expected"),
    [
        (WEIGHTS, RANGES, Quantization("int8_per_channel", "uint8_per_tensor", None, 8)),
        (
            WEIGHTS | {"strategy": "tensor"},
            TOKENS,
            Quantization("int8_per_tensor", "int8_per_token", None, 8),
        ),
        (
            WEIGHTS | {"num_bits": 4, "strategy": "group", "group_size": 32},
            None,
            Quantization("int4_group_32", "none", None, 4),
        ),
    ],
)
def test_schemes_have_the_names_that_recipes_give_them(
    tmp_path: Path, weights: dict, inputs: dict | None, expected: Quantization
) -> None:
    assert found(tmp_path, {"weights": weights, "input_activations": inputs}) == expected


def test_without_a_word_on_inputs_they_are_floats(tmp_path: Path) -> None:
    assert found(tmp_path, {"weights": WEIGHTS}) == Quantization("int8_per_channel", "none", None, 8)


@pytest.mark.parametrize(
    "group",
    [
        {"weights": WEIGHTS | {"type": "float"}, "input_activations": TOKENS | {"type": "float"}},
        {"weights": WEIGHTS | {"symmetric": False}},
        {"weights": WEIGHTS | {"strategy": "block"}},
        {"weights": WEIGHTS, "input_activations": TOKENS | {"type": "float"}},
        {"weights": WEIGHTS, "input_activations": RANGES | {"dynamic": "local"}},
        {"weights": WEIGHTS, "input_activations": RANGES | {"num_bits": 4}},
        {"weights": WEIGHTS, "output_activations": RANGES},
        {"weights": None, "input_activations": RANGES},
        {},
        ["Linear"],
    ],
)
def test_what_no_recipe_has_a_name_for_has_none(tmp_path: Path, group: Any) -> None:
    assert found(tmp_path, group) is None


def test_layers_in_several_ways_have_no_one_name(tmp_path: Path) -> None:
    assert found(tmp_path, {"weights": WEIGHTS}, {"weights": WEIGHTS | {"num_bits": 4}}) is None
    assert found(tmp_path) is None
