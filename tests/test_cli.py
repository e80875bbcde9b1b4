"""The command `hf-sparse` as a user types it."""

from pathlib import Path

import pytest
from transformers import BertConfig, BertModel
from typer.testing import CliRunner, Result

from hf_sparse.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    BertModel(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_help_has_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0 and "hf-sparse demo --output-dir" in result.output


def test_targets_shows_what_would_be_pruned_and_what_not(model_dir: Path) -> None:
    result = run("targets", model_dir, "--exclude", "intermediate")
    assert result.exit_code == 0
    assert "encoder.layer.0.attention.self.query.weight  8 x 8" in result.output
    assert "pooler.dense: outside the layer stack" in result.output
    assert "encoder.layer.0.intermediate.dense: excluded" in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sparsity", "1.5"], "hf-sparse: sparsity is a share between 0 and 1 such as 0.9, got 1.5"),
        (["--dataset-config", "sst2"], "hf-sparse: a dataset configuration was given without a dataset"),
    ],
)
def test_an_error_is_one_sentence_with_exit_code_1(arguments: list[str], sentence: str) -> None:
    result = run("demo", *arguments)
    assert result.exit_code == 1
    assert sentence in " ".join(result.output.split()) and "Traceback" not in result.output


def test_debug_shows_the_error_itself() -> None:
    result = run("--debug", "demo", "--sparsity", "1.5")
    assert isinstance(result.exception, ValueError)


def test_an_output_directory_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("demo", "--quick", "--output-dir", tmp_path / "file" / "out")
    assert result.exit_code == 1 and "choose another output_dir" in " ".join(result.output.split())


def test_the_demo_runs_on_the_text_of_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "metrics")
    result = run("demo", "--quick", "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "pruned once, transferred" in result.output
    assert {"results.json", "demo.png", "task-transfer"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
