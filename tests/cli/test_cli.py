"""The command `hf-sparse` as a user types it."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from hf_sparse import Recipe, __version__
from hf_sparse.checkpoint.packed.packed_file import PACKED
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.training.parts.sparsifier import Sparsifier
from tests.cli.commands import lines, quantized, run
from tests.support.tiny import bert


@pytest.fixture
def pruned_dir(tmp_path: Path) -> Path:
    """A pruned model with a record of it."""
    model = bert()
    recipe = Recipe.preset("gmp_finetune").override(
        ["sparsity.pattern=4x1", "sparsity.schedule={shape: one_shot, final: 0.5}"]
    )
    sparsifier = Sparsifier(recipe.sparsity, model, total_steps=2)
    sparsifier.update(0, optimizer=None)
    sparsifier.record(model)
    model.save_pretrained(tmp_path / "pruned")
    return tmp_path / "pruned"


@pytest.fixture
def damaged_dir(pruned_dir: Path) -> Path:
    """The same after something wrote to one of its weights."""
    model = type(bert()).from_pretrained(pruned_dir)
    torch.nn.init.ones_(model.bert.encoder.layer[1].output.dense.weight)
    model.save_pretrained(pruned_dir)
    return pruned_dir


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    BertModel(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_targets_shows_what_would_be_pruned_and_what_not(model_dir: Path) -> None:
    result = run("targets", model_dir, "--exclude", "intermediate")
    assert result.exit_code == 0
    assert "encoder.layer.0.attention.self.query.weight  8 x 8" in result.output
    assert "pooler.dense: outside the layer stack" in result.output
    assert "encoder.layer.0.intermediate.dense: excluded" in result.output
    found = json.loads("\n".join(lines("targets", model_dir, "--exclude", "intermediate", "--json")))
    assert found["targets"][0] == {"name": "encoder.layer.0.attention.self.query.weight", "shape": [8, 8]}
    assert {
        "name": "encoder.layer.0.intermediate.dense",
        "reason": "excluded (matches at 'intermediate')",
    } in found["left_out"]


def test_targets_knows_the_head_that_a_model_was_saved_with(pruned_dir: Path) -> None:
    assert "classifier: head: outside the base model" in "\n".join(lines("targets", pruned_dir))
    found = json.loads(lines("targets", pruned_dir, "--include", "classifier", "--json")[-1])
    assert [target["name"] for target in found["targets"]] == ["classifier.weight"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sparsity", "1.5"], "hf-sparse: sparsity is a share between 0 and 1 such as 0.9, got 1.5"),
        (["--dataset-config-name", "sst2"], "hf-sparse: a dataset configuration was given without a dataset"),
    ],
)
def test_an_error_is_one_sentence_with_exit_code_1(arguments: list[str], sentence: str) -> None:
    result = run("demo", *arguments)
    assert result.exit_code == 1
    assert sentence in " ".join(result.output.split()) and "Traceback" not in result.output


def test_an_output_directory_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("demo", "--quick", "--output-dir", tmp_path / "file" / "out")
    assert result.exit_code == 1 and "choose another output_dir" in " ".join(result.output.split())


def test_the_demo_runs_on_the_text_of_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "metrics")
    result = run("demo", "--quick", "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "pruned once, transferred" in result.output
    # Nothing is run again.
    again = run("demo", "--quick", "--output-dir", tmp_path / "out", "--json")
    assert json.loads(again.stdout) == json.loads((tmp_path / "out" / "results.json").read_text())
    assert "pruned once, transferred" in again.stderr
    assert {"results.json", "demo.png", "task-transfer"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_a_plan_fits_into_80_columns(model_dir: Path, narrow: None) -> None:
    text = lines("plan", "prune_ofa_90", "--max-steps", 1000, "--model-name-or-path", model_dir)
    assert max(map(len, text)) <= 80
    assert ["500", "90.0%", "4.9e-05", "0.5", "0.5", "51", "ramp", "ends"] in [line.split() for line in text]
    assert any("1.4" in line and "estimated" in line for line in text)


def test_a_plan_takes_its_length_from_data(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text\n" + "word\n" * 50)
    options = ["--per-device-train-batch-size", 4, "--gradient-accumulation-steps", 2, "--processes", 2]
    options += ["--num-train-epochs", 1.5]
    text = lines("plan", "gmp_finetune", "--dataset-name", tmp_path / "train.csv", *options)
    assert text[0].startswith("6 steps.")


def test_a_plan_as_json_is_all_that_is_printed(model_dir: Path) -> None:
    options = ["--learning-rate", 1e-3, "--warmup-steps", 0.5, "--lr-scheduler-type", "cosine_with_min_lr"]
    text = lines(
        "plan", "gmp_finetune", "--max-steps", 10, *options, "--lr-scheduler-kwargs", "min_lr=1e-4", "--json"
    )
    numbers = json.loads("\n".join(text))
    assert len(numbers["sparsity"]) == 11 and numbers["sparsity"][-1] == 0.85
    assert numbers["learning_rate"][6] == 1e-3
    assert numbers["model"] is None


def test_a_plan_takes_changes_a_teacher_and_options_of_loading(model_dir: Path) -> None:
    changes = [
        "--recipe-override",
        "distillation.attention=1",
        "--recipe-override",
        "sparsity.schedule.final=0.5",
        "--json",
    ]
    command = [
        "plan",
        "prune_ofa_90",
        "--max-steps",
        10,
        "--model-name-or-path",
        model_dir,
        "--teacher-name-or-path",
        model_dir,
        *changes,
    ]
    refused = run(*command)
    assert refused.exit_code == 1 and "attention is sdpa" in refused.stderr and refused.stdout == ""
    options = ["attn_implementation=eager", "attention_probs_dropout_prob=0.0"]
    text = lines(*command, *(word for option in options for word in ("--model-option", option)))
    numbers = json.loads("\n".join(text))
    assert numbers["loss_weights"]["attention"] == 1 and numbers["sparsity"][-1] == 0.5
    assert numbers["model"]["memory"]["teacher"] == numbers["model"]["memory"]["weights"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "given by --max-steps or by --dataset-name, one of them"),
        (
            ["--max-steps", "10", "--dataset-name", "x.csv"],
            "given by --max-steps or by --dataset-name, one of them",
        ),
        (["--max-steps", "10", "--teacher-name-or-path", "x"], "add --model-name-or-path"),
        (
            ["--max-steps", "10", "--recipe-override", "sparsity.pattern=2:3"],
            "set sparsity.schedule.final=0.3333",
        ),
        (
            ["--max-steps", "10", "--recipe-override", "sparsity.schedule.ramp_end=10"],
            "ramp_end is step 10 of 10",
        ),
        (["--max-steps", "10", "--warmup-steps", "6"], "shorten the warm-up or the ramp"),
        (["--max-steps", "10", "--lr-scheduler-type", "greedy"], "greedy follows a metric"),
        (["--max-steps", "10", "--lr-scheduler-kwargs", "nonsense"], "'nonsense' is not an assignment"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_in_one_sentence(options: list[str], sentence: str) -> None:
    result = run("plan", "prune_ofa_90", *options)
    assert result.exit_code == 1 and result.stdout == ""
    assert sentence in result.stderr and len(result.stderr.splitlines()) == 1


def test_plan_and_inspect_draw_what_they_show(pruned_dir: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / name for name in ("plan.png", "map.png", "weight.png", "layer.png")]
    lines("plan", "gmp_finetune", "--max-steps", 100, "--png", pictures[0])
    lines("inspect", pruned_dir, "--png", pictures[1])
    lines("inspect", pruned_dir, "--weight", "layer.0.output.dense", "--png", pictures[2])
    lines("inspect", pruned_dir, "--layer", 1, "--png", pictures[3])
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_inspect_fits_into_80_columns(pruned_dir: Path, narrow: None) -> None:
    text = lines("inspect", pruned_dir)
    assert max(map(len, text)) <= 80
    assert "Pattern: 4x1 in 12 of 12 weights" in text
    assert any(line.startswith("Recorded: 4x1, 50.0% asked for") for line in text)


def test_inspect_as_json_is_all_that_is_printed(pruned_dir: Path) -> None:
    numbers = json.loads("\n".join(lines("inspect", pruned_dir, "--json", "--exclude", "query")))
    assert numbers["architecture"] == "BertForSequenceClassification"
    assert numbers["sparsity"]["targets"]["share"] == 0.5 and len(numbers["weights"]) == 10
    assert numbers["file_bytes"] == (pruned_dir / "model.safetensors").stat().st_size


def test_inspect_tells_quantized_and_packed_models_and_their_sizes(tmp_path: Path, narrow: None) -> None:
    quantized(tmp_path / "int8")
    lines("pack", tmp_path / "int8", tmp_path / "packed", "--format", "packed")
    found = []
    for name, file in (("int8", "model.safetensors"), ("packed", PACKED)):
        text = lines("inspect", tmp_path / name)
        assert max(map(len, text[1:])) <= 80 and any(line.startswith("whole model  ") for line in text)
        schemes = "Quantized: weights int8_per_channel, inputs uint8_per_tensor in 6 layers."
        assert schemes in text and any("as papers count" in line for line in text)
        found.append(json.loads("\n".join(lines("inspect", tmp_path / name, "--json"))))
        size = (tmp_path / name / file).stat().st_size
        assert found[-1]["file_bytes"] == found[-1]["sizes"]["file_bytes"] == size
    assert found[0]["sizes"]["counted_bytes"] == found[1]["sizes"]["counted_bytes"]
    assert found[0]["sizes"]["encoder_ratio"] == 1 < found[1]["sizes"]["encoder_ratio"]


def test_inspect_measures_the_whole_model_only(pruned_dir: Path) -> None:
    for options in (["--exclude", "query"], ["--weight", "layer.0.output.dense"]):
        assert json.loads("\n".join(lines("inspect", pruned_dir, *options, "--json")))["sizes"] is None
    assert json.loads("\n".join(lines("inspect", pruned_dir, "--json")))["quantized"] == []


@pytest.mark.parametrize("form", [[], ["--json"], ["--weight", "layer.0.output.dense"]])
def test_inspect_exits_with_3_if_zeros_were_lost(damaged_dir: Path, form: list[str]) -> None:
    result = run("inspect", damaged_dir, *form)
    assert result.exit_code == 3
    assert "encoder.layer.1.output.dense.weight" in result.stdout


def test_a_model_that_is_not_there_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    for command in (
        ["inspect", tmp_path / "none"],
        ["plan", "transfer", "--max-steps", 5, "--model-name-or-path", tmp_path / "none"],
    ):
        result = run(*command)
        assert result.exit_code == 1 and result.stdout == ""
        assert len(result.stderr.splitlines()) == 1


def test_a_weight_that_is_not_there_is_an_error_with_a_way_out(pruned_dir: Path) -> None:
    result = run("inspect", pruned_dir, "--weight", "query")
    assert result.exit_code == 1 and "write one of them in full" in result.stderr


def test_a_plan_measures_what_patterns_buy(model_dir: Path) -> None:
    command = [
        "plan",
        "gmp_finetune",
        "--max-steps",
        10,
        "--model-name-or-path",
        model_dir,
        "--max-seq-length",
        4,
        "--speed",
    ]
    if load_kernels() is None:
        assert "C++ compiler" in run(*command).stderr
        return
    text = lines(*command)
    assert any("over dense in 8 bits" in line for line in text) and max(map(len, text)) <= 80
    assert any(line.startswith("unstructured *") for line in text)
    speed = json.loads(lines(*command, "--json")[0])["speed"]
    assert speed["times"]["4x4"]["0.9"] > 0 and speed["tokens"] == 4


def test_the_package_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hf_sparse", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("hf_sparse", run_name="__main__")
    assert not ended.value.code and capsys.readouterr().out == f"hf-sparse {__version__}\n"
