"""How an inspected model is shown."""

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from transformers import T5Config, T5Model

from hf_sparse import Recipe, find_targets, prune
from hf_sparse.checkpoint.packed.model import save_packed
from hf_sparse.quantization.convert import attach
from hf_sparse.quantization.embeddings import find_embeddings
from hf_sparse.quantization.fake_layers import Phase
from hf_sparse.quantization.weights import read_weight_scheme
from hf_sparse.report.grid import arrange
from hf_sparse.report.heatmap import sparsity_figure
from hf_sparse.report.inspection import (
    InspectedModel,
    inspect_saved,
    inspection_as_dict,
    print_inspection,
    print_weight,
)
from hf_sparse.sparsity.inspection import WeightInspection, find_weight
from hf_sparse.training.parts.sparsifier import Sparsifier
from tests.support.tiny import bert, llama


def t5() -> T5Model:
    config = T5Config(
        d_model=32, d_kv=16, d_ff=64, num_layers=2, num_decoder_layers=3, num_heads=2, vocab_size=50
    )
    return T5Model(config)


def inspected(model: nn.Module) -> InspectedModel:
    return inspect_saved("here", model, find_targets(model), 1_230_000)


def printed(found: InspectedModel, width: int = 80) -> list[str]:
    console = Console(file=StringIO(), width=width)
    print_inspection(found, console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def pruned() -> nn.Module:
    """A model of which every kind of weight is pruned in another way."""
    model = bert()
    prune(model, 0.5, overrides={"layer.1": 0.25, "query": 0.75})
    return model


def test_rows_are_layers_and_columns_are_kinds() -> None:
    rows = [line.split() for line in printed(inspected(pruned()))]
    assert ["layer", "query", "key", "value", "dense", "dense", "dense", "all"] in rows
    assert ["0", "75.0%", "50.0%", "50.0%", "50.0%", "50.0%", "50.0%", "53.1%"] in rows
    assert ["1", "25.0%", "25.0%", "25.0%", "25.0%", "25.0%", "25.0%", "25.0%"] in rows
    assert ["all", "50.0%", "37.5%", "37.5%", "37.5%", "37.5%", "37.5%", "39.1%"] in rows


def test_shares_sizes_and_patterns_are_shown() -> None:
    model = pruned()
    lines = printed(inspected(model))
    rows = [line.split() for line in lines]
    assert ["target", "weights", "39.1%", "16,384", "9,984"] in rows
    assert any(row[:2] == ["whole", "model"] and row[3] == f"{model.num_parameters():,}" for row in rows)
    assert ["weight", "files", "1.23", "MB"] in rows
    assert "Pattern: unstructured in 12 of 12 weights" in lines


@pytest.mark.parametrize("make", [bert, llama, t5, lambda: bert(num_hidden_layers=13)])
def test_no_line_is_longer_than_80_characters_and_none_is_cut_off(make) -> None:
    model = make()
    prune(model, 0.5)
    lines = printed(inspected(model))
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    assert sum("100.0%" in line or "50.0%" in line for line in lines) >= 3


def test_columns_that_do_not_fit_go_into_another_table() -> None:
    narrow = printed(inspected(pruned()), width=40)
    assert max(map(len, narrow)) <= 40
    rows = [line.split() for line in narrow]
    assert [row[1:] for row in rows if row[:1] == ["layer"]] == [
        ["query", "key", "value"],
        ["dense", "dense", "dense"],
        ["all"],
    ]


def test_every_stack_has_its_grid() -> None:
    grids, rest = arrange(inspected(t5()).inspection.weights)
    assert [(grid.stack, len(grid.layers), len(grid.kinds)) for grid in grids] == [
        ("encoder.block", 2, 6),
        ("decoder.block", 3, 10),
    ]
    assert grids[0].labels == ["q", "k", "v", "o", "wi", "wo"]
    assert grids[1].labels[:5] == [
        "SelfAttention.q",
        "SelfAttention.k",
        "SelfAttention.v",
        "SelfAttention.o",
        "EncDecAttention.q",
    ]
    assert rest == []


def test_experts_of_a_layer_share_a_cell() -> None:
    weights = [
        WeightInspection(f"layers.0.experts.up[{number}]", (2, 2), number, None) for number in range(4)
    ]
    (grid,), _ = arrange(weights)
    assert grid.kinds == ["experts.up"] and grid.sparsity(0, "experts.up") == 6 / 16
    assert grid.sparsity(1, "experts.up") is None


def test_weights_without_a_layer_are_listed() -> None:
    model = nn.ModuleDict({"one": nn.Linear(4, 4), "two": nn.Linear(4, 4)})
    with torch.no_grad():
        model["two"].weight[0] = 0.0
    found = inspect_saved("here", model, find_targets(model, include=["one", "two"]), 10)
    rows = [line.split() for line in printed(found)]
    assert ["one.weight", "0.0%"] in rows and ["two.weight", "25.0%"] in rows
    with pytest.raises(ValueError, match="lack layer numbers; draw one weight"):
        sparsity_figure(found.inspection.weights, "title")


def test_numbers_that_stand_for_no_layers_make_no_columns() -> None:
    weights = [WeightInspection(f"stages.0.blocks.{number}.fc", (2, 2), 0, None) for number in range(17)]
    assert arrange(weights) == ([], weights)


def recorded() -> nn.Module:
    model = bert()
    recipe = Recipe.preset("gmp_finetune").override(
        ["sparsity.pattern=4x1", "sparsity.schedule={shape: one_shot, final: 0.5}"]
    )
    sparsifier = Sparsifier(recipe.sparsity, model, total_steps=2)
    sparsifier.update(0, optimizer=None)
    sparsifier.record(model)
    return model


def test_what_the_configuration_records_is_shown() -> None:
    found = inspected(recorded())
    text = " ".join(printed(found))
    digest = found.record.digest[:16]
    assert f"Recorded: 4x1, 50.0% asked for, 50.0% achieved, masks {digest}." in text
    assert "at least the zeros recorded" in text and "Warning" not in text
    assert "records no sparsity" in " ".join(printed(inspected(bert())))


def test_lost_zeros_are_a_warning_that_names_the_weights() -> None:
    model = recorded()
    nn.init.ones_(model.bert.encoder.layer[0].attention.self.key.weight)
    found = inspected(model)
    text = " ".join(printed(found))
    assert "Warning: 1 weight has fewer zeros" in text
    assert "encoder.layer.0.attention.self.key.weight (0 of 512)" in text
    assert "at least the zeros recorded" not in text


def test_the_numbers_survive_json() -> None:
    model = recorded()
    nn.init.ones_(model.bert.encoder.layer[0].attention.self.key.weight)
    found = inspected(model)
    numbers = json.loads(json.dumps(inspection_as_dict(found), allow_nan=False))
    assert numbers["sparsity"]["targets"] == {"zeros": 7680, "entries": 16384, "share": 0.46875}
    assert numbers["weights"][0] == {
        "name": "bert.encoder.layer.0.attention.self.query.weight",
        "shape": [32, 32],
        "zeros": 512,
        "pattern": "4x1",
        "sparsity": 0.5,
    }
    assert numbers["contract"]["digest"] == found.record.digest
    assert numbers["lost_zeros"] == {
        "encoder.layer.0.attention.self.key.weight": {"removed": 512, "zeros": 0}
    }
    assert numbers["file_bytes"] == 1_230_000


def test_schemes_and_sizes_are_shown_where_they_are_known(tmp_path: Path) -> None:
    model = bert()
    targets = find_targets(model)
    attach(targets.found[:8], read_weight_scheme("int8_per_tensor"), "none", "min_max", Phase())
    attach(targets.found[8:], read_weight_scheme("int4_per_channel"), "int8_per_token", "min_max", Phase())
    attach(find_embeddings(model), read_weight_scheme("int8_per_channel"), "none", "min_max", Phase())
    sizes = save_packed(model, tmp_path)
    found = inspect_saved("here", model, targets, sizes.file_bytes, sizes)
    lines = printed(found)
    assert "Quantized: weights int8_per_tensor, inputs none in 8 layers." in lines
    assert "Quantized: weights int4_per_channel, inputs int8_per_token in 4 layers." in lines
    assert "Quantized: embeddings int8_per_channel in 3 layers." in lines
    assert max(map(len, lines)) <= 80 and any(line.startswith("encoder  ") for line in lines)
    numbers = json.loads(json.dumps(inspection_as_dict(found), allow_nan=False))
    assert numbers["sizes"]["counted_ratio"] == sizes.counted_ratio
    assert {"weights": "int8_per_tensor", "activations": "none", "layers": 8} in numbers["quantized"]
    plain = inspection_as_dict(inspected(bert()))
    assert plain["sizes"] is None and plain["quantized"] == []


def test_dead_neurons_and_heads_are_counted() -> None:
    model = bert()
    assert not any(line.startswith("Dead") for line in printed(inspected(model)))
    first, second = model.bert.encoder.layer
    with torch.no_grad():
        first.intermediate.dense.weight[:5] = 0
        second.output.dense.weight[:, 3:6] = 0
        second.attention.self.value.weight[:16] = 0
    found = inspected(model)
    assert "Dead: 8 of 128 neurons, 1 of 4 heads." in printed(found)
    assert inspection_as_dict(found)["dead"]["heads"] == {"dead": 1, "all": 4}
    assert inspected(t5()).dead == {"neurons": (0, 320), "heads": (0, 16)}


def test_one_weight_is_shown_alone() -> None:
    model = pruned()
    found = inspect_saved("here", model, find_weight(model, "layer.1.output.dense"), 1)
    console = Console(file=StringIO(), width=80)
    print_weight(found, console)
    assert console.file.getvalue().splitlines() == [
        "bert.encoder.layer.1.output.dense.weight: 32 outputs x 64 inputs",
        "512 of 2,048 entries are zero (25.0%). Pattern: unstructured.",
    ]
