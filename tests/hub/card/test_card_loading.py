"""The code that a card shows to load its model does so, with the directory in place of the repository."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
)

from hf_sparse.checkpoint.load import load_model
from hf_sparse.cli.main import app
from hf_sparse.hub import write_card
from hf_sparse.hub.card.usage import ways_to_load
from hf_sparse.hub.card.write import describe
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.hub.card.card_runs import REPO, Runs, make_runs, tokenizer
from tests.support.tiny import SIZES, bert


@pytest.fixture(scope="module", autouse=True)
def undrawn() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_sparse.hub.card.write.draw_pictures", lambda *_: ())
        yield


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
    return write_card(finished.run, finished.staged, REPO).read_text()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer()("w1 w2 w3", return_tensors="pt")).logits


def test_every_way_gives_the_model_that_was_measured(card: str, finished: Runs) -> None:
    stock, fast, plugin = blocks(card, "python", finished.staged)
    expected = logits(load_model(str(finished.run)))
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


def test_a_plain_sparse_model_is_loaded_with_transformers_alone(tmp_path: Path) -> None:
    model = bert()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.zero_()
    model.save_pretrained(tmp_path)
    text = write_card(tmp_path, tmp_path, REPO).read_text()
    stock, fast = blocks(text, "python", tmp_path)
    assert "With transformers alone:" in text and "whose runtime rounds the layers to 8 bits" in text
    found = run(stock)["model"]
    assert isinstance(found, BertForSequenceClassification) and torch.equal(
        logits(found), logits(model.eval())
    )
    assert torch.allclose(logits(run(fast)["model"]), logits(model), atol=0.05)
    assert "hf-sparse export tiny-int8 onnx --format onnx" in text


def fast_code(model: PreTrainedModel, place: Path) -> str:
    """Return the code of the runtime that is shown of a sparse model with a tokenizer."""
    with torch.no_grad():
        model.base_model.encoder.layer[0].output.dense.weight.zero_()
    model.save_pretrained(place)
    tokenizer().save_pretrained(place)
    stock, fast = blocks(write_card(place, place, REPO).read_text(), "python", place)
    assert isinstance(run(stock)["model"], type(model))
    return fast


def test_the_runtime_answers_a_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = BertForQuestionAnswering(BertConfig(**SIZES))
    # So that every word is as good as another: the first one of all, then.
    torch.nn.init.zeros_(model.qa_outputs.weight)
    run(fast_code(model, tmp_path))
    assert capsys.readouterr().out == "[CLS]\n"


def test_the_runtime_shows_what_a_model_without_a_head_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(fast_code(BertModel(BertConfig(**SIZES)), tmp_path))
    assert "tensor([[[" in capsys.readouterr().out


def test_every_way_loads_the_revision_that_was_pushed(card: str, finished: Runs) -> None:
    assert "revision" not in card
    facts = describe(finished.run, finished.staged, REPO, revision="v2")
    stock, fast, plugin, onnx = (way.code for way in ways_to_load(facts))
    assert 'model=repo, revision="v2")' in stock
    assert 'load(repo, subfolder="packed", revision="v2")' in fast
    assert 'AutoTokenizer.from_pretrained(repo, revision="v2")' in fast and fast.count("v2") == 2
    assert 'from_pretrained(repo, subfolder="packed", revision="v2")' in plugin and plugin.count("v2") == 2
    assert onnx.startswith(f"hf download {REPO} --revision v2 --local-dir tiny-int8\n")
    assert describe(finished.run, finished.staged, REPO, revision="main").revision is None


def test_the_runtime_gets_a_plain_model_of_a_revision_downloaded(
    finished: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = describe(finished.run, finished.run, REPO, revision="v2")
    fast = next(way.code for way in ways_to_load(facts) if "hf_sparse.runtime" in way.code)
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda *names, **options: asked.append((names, options)) or str(finished.run),
    )
    lines = [line for line in fast.splitlines() if "okenizer" not in line]
    assert isinstance(run("\n".join(lines))["model"], torch.nn.Module)
    assert asked == [((REPO,), {"revision": "v2"})]
