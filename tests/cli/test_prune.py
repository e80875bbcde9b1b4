"""`hf-sparse prune`: from a trained model to a sparse one, without training."""

import json
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from hf_sparse import measure_sparsity
from hf_sparse.checkpoint.load import load_tokenizer
from tests.cli.commands import lines, refused
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.support.tiny import llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    llama().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("the big cat sat on a mat\na mat in paris\n" * 10)
    return tmp_path / "texts.txt"


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparse_gpt"])
def test_it_writes_a_plain_sparse_directory(
    tmp_path: Path, model: Path, texts: Path, method: str, narrow: None
) -> None:
    look = [] if method == "magnitude" else ["--calibration", texts, "--samples", 8]
    out = tmp_path / "out"
    options = ["--sparsity", 0.5, "--pattern", "2:4", "--method", method]
    assert lines("prune", model, out, *options, *look) == [f"50.0% of 14 weights removed: 2:4, by {method}."]
    assert measure_sparsity(LlamaForCausalLM.from_pretrained(out)).overall == 0.5
    assert load_tokenizer(str(out)).get_vocab() == tokenizer().get_vocab()
    (text,) = lines("prune", model, tmp_path / "new", *options, *look, "--json")
    how = {"pattern": "2:4", "method": method}
    found = {"sparsity": 0.5, "before": 0.0, "weights": 14}
    assert json.loads(text) == {"directory": str(tmp_path / "new"), **how, **found}


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparse_gpt"])
def test_what_is_gone_already_stays_and_is_told(
    tmp_path: Path, model: Path, texts: Path, method: str, narrow: None
) -> None:
    look = [] if method == "magnitude" else ["--calibration", texts, "--samples", 8]
    first, second = tmp_path / "first", tmp_path / "second"
    lines("prune", model, first, "--sparsity", 0.25, "--method", method, *look)
    (said,) = lines("prune", first, second, "--sparsity", 0.5, "--method", method, *look)
    assert said == f"50.0% of 14 weights removed, up from 25.0%: unstructured, by {method}."
    before, after = (LlamaForCausalLM.from_pretrained(path).state_dict() for path in (first, second))
    assert not any((after[name] != 0)[before[name] == 0].any() for name in before if "_proj" in name)
    (text,) = lines(
        "prune", first, tmp_path / "third", "--sparsity", 0.5, "--method", method, *look, "--json"
    )
    assert (json.loads(text)["before"], json.loads(text)["sparsity"]) == (0.25, 0.5)
    less = refused("prune", first, tmp_path / "less", "--sparsity", 0.1, "--method", method, *look)
    assert "are zero already, more than the" in less and not (tmp_path / "less").exists()


def test_texts_belong_to_the_methods_that_look_at_them(tmp_path: Path, model: Path, texts: Path) -> None:
    half = ["prune", model, tmp_path / "out", "--sparsity", 0.5]
    assert "give them with --calibration" in refused(*half, "--method", "wanda")
    assert "uses no texts; leave --calibration out" in refused(*half, "--calibration", texts)
    assert not (tmp_path / "out").exists()


def test_another_directory_is_not_replaced(tmp_path: Path, model: Path) -> None:
    assert "is not empty" in refused("prune", model, model, "--sparsity", 0.5)
    assert measure_sparsity(LlamaForCausalLM.from_pretrained(model)).overall == 0.0


def test_a_pruned_model_that_was_trained_since_is_not_replaced(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    lines("prune", model, out, "--sparsity", 0.5)
    trained = LlamaForCausalLM.from_pretrained(out)
    trained.lm_head.weight.data.fill_(0.25)
    trained.save_pretrained(out)
    message = refused("prune", model, out, "--sparsity", 0.5)
    assert message.endswith("is not replaced; choose another directory, or delete this one")
    assert (LlamaForCausalLM.from_pretrained(out).lm_head.weight == 0.25).all()
