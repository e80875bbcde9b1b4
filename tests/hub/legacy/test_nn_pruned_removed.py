"""Removed heads and neurons are put back as zeros."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from hf_sparse.hub import load_legacy
from tests.hub.legacy.written import assert_gives, config_of, logits, tensors_of, wide, write

LAYER = "bert.encoder.layer.{}"
SIZE = 8


def shrunk(heads: dict[int, list[int]], neurons: dict[int, int], **config: Any) -> tuple[dict, dict]:
    """Return what nn_pruning wrote: these heads removed, this many neurons left; and its configuration."""
    model = wide(**config)
    written = tensors_of(model)
    for layer, gone in heads.items():
        rows = [
            row for head in range(4) if head not in gone for row in range(head * SIZE, head * SIZE + SIZE)
        ]
        for name in ("query", "key", "value"):
            module = f"{LAYER.format(layer)}.attention.self.{name}"
            for own in ("weight", "bias"):
                written[f"{module}.{own}"] = written[f"{module}.{own}"][rows]
        out = f"{LAYER.format(layer)}.attention.output.dense.weight"
        written[out] = written[out][:, rows]
    for layer, count in neurons.items():
        for own in ("weight", "bias"):
            into = f"{LAYER.format(layer)}.intermediate.dense.{own}"
            written[into] = written[into][:count]
        back = f"{LAYER.format(layer)}.output.dense.weight"
        written[back] = written[back][:, :count]
    return written, config_of(model, pruned_heads={str(layer): gone for layer, gone in heads.items()})


def test_heads_and_neurons_are_back_without_effect(tmp_path: Path) -> None:
    written, config = shrunk({0: [0, 2], 1: [3]}, {0: 20, 1: 33})
    rescued = load_legacy(str(write(tmp_path, written, config)))
    assert rescued.layouts == ("removed",)
    assert rescued.notes == ("3 removed heads put back as zeros", "75 removed neurons put back as zeros")
    assert_gives(rescued.model, logits(written))
    query = rescued.model.bert.encoder.layer[0].attention.self.query
    gone = torch.tensor([True] * 8 + [False] * 8 + [True] * 8 + [False] * 8)
    assert torch.equal(query.weight.any(1), ~gone) and torch.equal(query.bias == 0, gone | (query.bias == 0))
    assert rescued.model.bert.encoder.layer[1].intermediate.dense.weight.any(1).sum() == 33
    # 3 heads of 8 x 32 in four matrices, 75 neurons of 32 in two.
    assert sum(weight.zeros for weight in rescued.weights) == 3 * 8 * 32 * 4 + 75 * 32 * 2
    assert "pruned_heads" not in rescued.model.config.to_dict()


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("relu", torch.relu),
        ("gelu_new", partial(torch.nn.functional.gelu, approximate="tanh")),
        ("sigmoid", torch.sigmoid),
    ],
)
def test_what_the_activation_gives_for_zero_makes_no_difference(
    tmp_path: Path, name: str, activation: object
) -> None:
    written, config = shrunk({}, {0: 20}, hidden_act=name)
    rescued = load_legacy(str(write(tmp_path, written, config)))
    assert_gives(rescued.model, logits(written, activation=activation))


def test_distilbert_has_its_own_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64, "vocab_size": 100}
    model = DistilBertForSequenceClassification(DistilBertConfig(**sizes, initializer_range=0.3)).eval()
    written = tensors_of(model)
    home = "distilbert.transformer.layer.0.attention"
    for name in ("q_lin", "k_lin", "v_lin"):
        for own in ("weight", "bias"):
            written[f"{home}.{name}.{own}"] = written[f"{home}.{name}.{own}"][SIZE:]
    written[f"{home}.out_lin.weight"] = written[f"{home}.out_lin.weight"][:, SIZE:]
    rescued = load_legacy(str(write(tmp_path, written, config_of(model, pruned_heads={"0": [0]}))))
    # The same as a head whose output counts for nothing.
    model.distilbert.transformer.layer[0].attention.out_lin.weight.data[:, :SIZE] = 0
    inputs = torch.arange(5, 25).reshape(2, 10)
    with torch.no_grad():
        torch.testing.assert_close(rescued.model(inputs).logits, model(inputs).logits)


def test_heads_that_are_zeros_already_are_taken_out_of_the_configuration(tmp_path: Path) -> None:
    model = wide()
    plain = tensors_of(model)
    plain[f"{LAYER.format(0)}.attention.output.dense.weight"][:, :SIZE] = 0
    written = write(tmp_path, plain, config_of(model, pruned_heads={"0": [0]}))
    rescued = load_legacy(str(written))
    assert rescued.notes[0].startswith("pruned_heads taken out of the configuration")
    assert_gives(rescued.model, logits(plain))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "bert.encoder.layer.0 has 3 heads and pruned_heads leaves 4 of 4"),
        ({"0": [0, 1]}, "has 3 heads and pruned_heads leaves 2 of 4"),
        ({"0": [4]}, r"pruned_heads of layer 0 is \[4\], of 4 heads"),
        ({"0": [-1]}, "heads are counted from 0"),
        ({"0": [0], "7": [1]}, "names layer 7, which the model does not have"),
        ({"0": [0], "1": [1]}, r"heads \[1\] of layer 1 are removed, and .* has weights for them"),
        ({"first": [0]}, "no heads by layers"),
        ([0], "no heads by layers"),
    ],
)
def test_heads_other_than_the_matrices_have_are_refused(tmp_path: Path, said: object, message: str) -> None:
    written, config = shrunk({0: [0]}, {})
    with pytest.raises(ValueError, match=message):
        load_legacy(str(write(tmp_path, written, config | {"pruned_heads": said})))


@pytest.mark.parametrize(
    "name", ["attention.output.dense.weight", "attention.self.key.bias", "output.dense.weight"]
)
def test_a_matrix_that_does_not_fit_the_others_is_refused(tmp_path: Path, name: str) -> None:
    written, config = shrunk({0: [0]}, {0: 20})
    key = f"{LAYER.format(0)}.{name}"
    written[key] = written[key][..., :-1]
    with pytest.raises(ValueError, match=f"{key.rpartition('.')[0]} is of shape"):
        load_legacy(str(write(tmp_path, written, config)))


@pytest.mark.parametrize(
    "key",
    [
        f"{LAYER.format(0)}.attention.self.query.mask_module.context_modules.0.mask_scores",
        f"{LAYER.format(0)}.attention.self.query.mask_scores",
        f"{LAYER.format(0)}.attention.self.query.ampere_module.ampere_pattern",
        f"{LAYER.format(0)}.output.LayerNorm.accumulator",
    ],
)
def test_an_unfinished_run_is_refused(tmp_path: Path, key: str) -> None:
    model = wide()
    written = tensors_of(model) | {key: torch.zeros(3)}
    with pytest.raises(
        ValueError, match=f"{key} belongs to an unfinished run, .*compile_model of nn_pruning"
    ):
        load_legacy(str(write(tmp_path, written, config_of(model))))


def test_heads_of_other_families_are_refused(tmp_path: Path) -> None:
    written = write(
        tmp_path, {"h.weight": torch.ones(2, 2)}, {"model_type": "gpt2", "pruned_heads": {"0": [1]}}
    )
    with pytest.raises(ValueError, match="pruned_heads of a gpt2 cannot be put back"):
        load_legacy(str(written))
