"""`hf-sparse shrink`: from a model with dead neurons to a smaller one."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_sparse import prune
from hf_sparse.checkpoint.sparsity_record import lost_zeros, read_sparsity_record
from tests.cli.commands import lines, refused
from tests.support.tiny import bert

INPUTS = {"input_ids": torch.arange(5, 29).reshape(2, 12)}


@pytest.fixture
def pruned(tmp_path: Path) -> BertForSequenceClassification:
    model = bert().eval()
    prune(model, 0.5, pattern="row", include=["intermediate"])
    model.save_pretrained(tmp_path / "pruned")
    return model


def test_the_model_is_smaller_and_the_same(tmp_path: Path, pruned: torch.nn.Module, narrow: None) -> None:
    out = tmp_path / "out"
    printed = " ".join(lines("shrink", tmp_path / "pruned", out))
    assert printed.startswith("32 neurons in every layer instead of 64.")
    none = "As many heads as before: no dead heads with all that share their keys and values in"
    assert f"{none} bert.encoder.layer.0.attention" in printed
    stock = BertForSequenceClassification.from_pretrained(out).eval()
    assert stock.config.intermediate_size == 32
    with torch.no_grad():
        torch.testing.assert_close(stock(**INPUTS).logits, pruned(**INPUTS).logits, rtol=1e-5, atol=1e-5)
    assert not lost_zeros(stock) and read_sparsity_record(stock).achieved == 0.0


def test_as_json_numbers_are_all_that_is_printed(tmp_path: Path, pruned: torch.nn.Module) -> None:
    (text,) = lines("shrink", tmp_path / "pruned", tmp_path / "out", "--json")
    found = json.loads(text)
    assert found["neurons"] == {"before": 64, "now": 32}
    assert found["heads"]["before"] == found["heads"]["now"] and found["directory"] == str(tmp_path / "out")
    assert found["parameters"]["now"] < found["parameters"]["before"] == pruned.num_parameters()


def test_where_no_neuron_is_dead_nothing_is_written(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "dense")
    message = refused("shrink", tmp_path / "dense", tmp_path / "out")
    assert "nothing can be removed: no dead neurons in bert.encoder.layer.0; " in message
    assert not (tmp_path / "out").exists()
