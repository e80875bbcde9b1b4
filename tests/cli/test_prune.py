"""`hf-sparse prune`: from a trained model to a sparse one, without training."""

import json
from pathlib import Path

import pytest
from tiny import llama
from transformers import LlamaForCausalLM

from hf_sparse import measure_sparsity
from hf_sparse.checkpoint.loading import load_tokenizer
from tests.cli.commands import lines, refused
from tests.data.tiny_tokenizers import bert as tokenizer


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
    # Again, in its own place.
    (text,) = lines("prune", model, out, *options, *look, "--json")
    how = {"pattern": "2:4", "method": method}
    assert json.loads(text) == {"directory": str(out), **how, "sparsity": 0.5, "weights": 14}


def test_texts_belong_to_the_methods_that_look_at_them(tmp_path: Path, model: Path, texts: Path) -> None:
    half = ["prune", model, tmp_path / "out", "--sparsity", 0.5]
    assert "give them with --calibration" in refused(*half, "--method", "wanda")
    assert "looks at no texts; leave --calibration out" in refused(*half, "--calibration", texts)
    assert not (tmp_path / "out").exists()


def test_another_directory_is_not_replaced(tmp_path: Path, model: Path) -> None:
    assert "holds something else" in refused("prune", model, model, "--sparsity", 0.5)
    assert measure_sparsity(LlamaForCausalLM.from_pretrained(model)).overall == 0.0
