"""The code that a card shows to load its model does so, with the directory in place of the repository."""

import re
from pathlib import Path

import pytest
import torch
from tiny import bert
from transformers import BertForSequenceClassification

from hf_sparse.cli.main import app
from hf_sparse.hub import write_card
from hf_sparse.quantization.layers import quantized_layers
from hf_sparse.training.loading import load_trained
from tests.hub.card_runs import REPO, Runs, make_runs, tokenizer


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return make_runs(tmp_path_factory.mktemp("home"))


def blocks(text: str, language: str, place: Path) -> list[str]:
    """Return the code of a card, made to load a directory."""
    return [
        code.replace(REPO, str(place)) for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    ]


def run(code: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(compile(code, "card", "exec"), names)
    return names


@pytest.fixture(scope="module")
def card(finished: Runs) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_sparse.hub.card.draw_pictures", lambda *_: ())
        return write_card(finished.run, finished.staged, REPO).read_text()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer()("w1 w2 w3", return_tensors="pt")).logits


def test_every_way_gives_the_model_that_was_measured(card: str, finished: Runs) -> None:
    stock, fast, plugin = blocks(card, "python", finished.staged)
    expected = logits(load_trained(str(finished.run)))
    assert torch.allclose(logits(run(stock)["run"].model), expected, atol=1e-5)
    assert torch.allclose(logits(run(fast)["model"]), expected, atol=1e-5)
    trainable = run(plugin)["model"]
    assert torch.allclose(logits(trainable.eval()), expected, atol=1e-5)
    assert quantized_layers(trainable) and all(part.requires_grad for part in trainable.parameters())


def test_the_stock_way_answers_with_the_names_of_the_classes(
    card: str, finished: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    run(blocks(card, "python", finished.staged)[0])
    assert re.search(r"\[\{'label': '(bad|good)', 'score': 0\.\d+\}\]", capsys.readouterr().out)


def test_the_packed_model_is_exported_as_the_card_says(
    card: str, finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = blocks(card, "bash", finished.staged)
    download, export = code.splitlines()
    assert download == f"hf download {finished.staged} --local-dir tiny-int8"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-int8").symlink_to(finished.staged)
    app(export.split()[1:], standalone_mode=False)
    assert (tmp_path / "onnx" / "model.onnx").is_file()


def test_a_plain_sparse_model_is_loaded_with_transformers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bert()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.zero_()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr("hf_sparse.hub.card.draw_pictures", lambda *_: ())
    text = write_card(tmp_path, tmp_path, REPO).read_text()
    stock, fast = blocks(text, "python", tmp_path)
    assert "With transformers alone:" in text and "which rounds its layers to 8 bits" in text
    found = run(stock)["model"]
    assert isinstance(found, BertForSequenceClassification) and torch.equal(
        logits(found), logits(model.eval())
    )
    assert torch.allclose(logits(run(fast)["model"]), logits(model), atol=0.05)
    assert "hf-sparse export tiny-int8 onnx --to onnx" in text
