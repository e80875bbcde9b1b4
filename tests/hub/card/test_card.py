"""The card of a tiny model that was trained, evaluated and timed: what it says and what it leaves out."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hf_sparse.hub import CardOptions, write_card
from hf_sparse.hub.card.card_data import Facts, facts_from_json
from hf_sparse.hub.card.render import SECTIONS, is_generated, render
from hf_sparse.hub.card.write import describe
from tests.hub.card.card_runs import REPO, Runs, change, copy, make_runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return make_runs(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def card(finished: Runs) -> str:
    return write_card(finished.run, finished.staged, REPO).read_text()


@pytest.fixture
def runs(finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """A copy of the runs, to be changed; no pictures are drawn of it, which takes longer than all else."""
    monkeypatch.setattr("hf_sparse.hub.card.write.draw_pictures", lambda *_: ())
    return copy(finished, tmp_path / "home")


def written(runs: Runs, **options: Any) -> str:
    return write_card(runs.run, runs.staged, REPO, card=CardOptions(**options)).read_text()


def results(folder: Path) -> dict[str, float]:
    return json.loads((folder / "eval_results.json").read_text())


def test_the_first_lines_say_what_it_is_with_the_numbers_that_were_measured(
    card: str, finished: Runs
) -> None:
    first = ModelCard(card).text.split("\n## ")[0]
    ours, theirs = (results(folder)["eval_accuracy"] for folder in (finished.run, finished.dense))
    assert ours != theirs
    assert "# tiny-int8\n\nA text classifier (`BertForSequenceClassification`" in first
    assert "**90.0 % of its encoder's weights removed** and the others in **8 bits**" in first
    assert f"Its accuracy is **{100 * ours:.1f} %**" in first
    points = f"{100 * (ours - theirs):+.2f} points ({100 * (ours - theirs) / theirs:+.1f} %)"
    assert f"| accuracy | {100 * theirs:.2f} % | **{100 * ours:.2f} %** | {points} |" in first
    assert "on 40 examples of [nyu-mll/glue](https://huggingface.co/datasets/nyu-mll/glue) (sst2," in first
    assert "**2.5 times as fast** in hf_sparse's runtime as in PyTorch float32" in first
    assert "Its 2 classes are bad, good." in first


def test_sizes_are_those_of_the_files(card: str, finished: Runs) -> None:
    facts = describe(finished.run, finished.staged, REPO)
    plain, packed = facts.files
    assert (plain.form, packed.form) == ("compressed-tensors", "packed")
    assert plain.bytes == (finished.staged / "model.safetensors").stat().st_size
    assert packed.bytes == (finished.staged / "packed" / "packed.safetensors").stat().st_size
    ratio = f"{packed.sizes.ratio:.1f}"
    assert f"(packed) is **{ratio} times smaller**" in card
    assert re.search(rf"\| packed, whole model \| .* \| {packed.bytes / 1e3:.1f} kB \| {ratio} \|", card)
    assert f"| {packed.sizes.encoder_ratio:.1f} | {packed.sizes.counted_ratio:.1f} |" in card


def test_latencies_name_the_machine_and_what_was_not_measured(card: str) -> None:
    assert "Measured on a Some Processor 9000 (2 cores, hf_sparse's kernels for avx2), one thread" in card
    assert "one text of 32 tokens; hf_sparse " in card
    assert (
        "| **hf_sparse fuse** | **2.00 ms** | **2.90 ms** | **500.0** | **4.00 MB** | **1.5e-06** |" in card
    )
    assert "Not measured: OpenVINO int8: openvino is not installed." in card


def test_metadata_is_what_the_hub_reads(card: str, finished: Runs) -> None:
    data = ModelCard(card).data
    assert data.base_model == "somebody/bert-tiny" and data.base_model_relation == "finetune"
    assert data.datasets == ["nyu-mll/glue"] and data.pipeline_tag == "text-classification"
    assert data.library_name == "transformers" and data.license is None and data.language is None
    assert data.tags == ["hf_sparse", "sparse", "unstructured", "pruned", "int8", "distilled"]
    (result,) = data.eval_results
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == (
        "nyu-mll/glue",
        "sst2",
        "validation",
    )
    assert (result.metric_type, result.metric_value) == ("accuracy", results(finished.run)["eval_accuracy"])
    assert data.model_name == "tiny-int8"


def test_every_run_of_the_pipeline_can_be_done_again(card: str) -> None:
    made = card.split("## How it was made")[1]
    assert "Made from [somebody/bert-tiny](https://huggingface.co/somebody/bert-tiny) in 2 runs" in made
    assert "|  | `dense` | `int8` |" in made and "| teacher |  | `dense` |" in made
    assert "| learning_rate | 0.003 | 1e-09 |" in made and "seed 42" in made and "with python 3" in made
    recipe = re.findall(r"```yaml\n(.*?)\n```", made, re.DOTALL)
    assert len(recipe) == 1 and "method: magnitude" in recipe[0] and "quantization:" in recipe[0]


def test_nothing_local_and_nothing_secret_is_in_it(card: str, finished: Runs) -> None:
    facts = describe(finished.run, finished.staged, REPO).to_json()
    for text in (card, facts):
        assert str(finished.home) not in text and "hf_secret" not in text and "/tmp" not in text


def test_facts_go_through_json_and_give_the_same_card(card: str, finished: Runs) -> None:
    facts = describe(finished.run, finished.staged, REPO)
    again = facts_from_json(facts.to_json())
    assert again == facts and str(render(again)) == card


def test_facts_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="these are not the facts of a card"):
        facts_from_json('{"repo": "a/b"}')


def test_pictures_are_drawn_where_there_is_data(finished: Runs, tmp_path: Path) -> None:
    runs = copy(finished, tmp_path / "home")
    assert all(f"(pictures/{name}.png)" in written(runs) for name in ("sparsity", "training", "latency"))
    drawn = runs.staged / "pictures"
    assert {path.name for path in drawn.iterdir()} == {"sparsity.png", "training.png", "latency.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn.iterdir())
    (runs.run / "latency.json").unlink()
    (runs.run / "trainer_state.json").unlink()
    assert "latency.png" not in written(runs)
    assert {path.name for path in drawn.iterdir()} == {"sparsity.png"}


def test_without_latencies_nothing_is_said_of_speed(runs: Runs) -> None:
    (runs.run / "latency.json").unlink()
    text = written(runs)
    assert "How fast it is\n" not in text and " ms" not in text and "as fast**" not in text
    assert "Its speed was not measured" in text


def test_without_a_dense_model_nothing_is_compared(runs: Runs) -> None:
    shutil.rmtree(runs.dense)
    text = written(runs)
    assert "points (" not in text and "dense teacher" not in text and "|  | this model |" in text
    assert ModelCard(text).data.base_model is None


def test_without_scores_there_is_no_metric(runs: Runs) -> None:
    (runs.run / "eval_results.json").unlink()
    (runs.run / "trainer_state.json").unlink()
    text = written(runs)
    data = ModelCard(text).data
    assert data.eval_results is None and "model-index" not in text and data.metrics is None
    assert "accuracy" not in text and "Its quality was not measured" in text


def test_without_a_data_set_there_is_no_model_index(runs: Runs) -> None:
    change(runs.run / "hf_sparse_run.json", facts={})
    data = ModelCard(text := written(runs)).data
    assert data.eval_results is None and data.pipeline_tag == "text-classification"
    assert "Scores are on 40 examples, from" in text


def test_without_a_record_nothing_is_said_of_how_it_was_made(runs: Runs) -> None:
    (runs.run / "hf_sparse_run.json").unlink()
    text = written(runs)
    assert "How it was made" not in text and "seed" not in text


def test_data_that_is_not_on_the_hub_is_no_data_set_of_the_hub(runs: Runs) -> None:
    facts = {"task": "text-classification", "dataset": "/data/mine/train.csv"}
    change(runs.run / "hf_sparse_run.json", facts=facts)
    data = ModelCard(text := written(runs, dense=runs.dense / "eval_results.json")).data
    assert data.eval_results[0].dataset_name == "train.csv" and data.eval_results[0].dataset_type == "custom"
    assert data.datasets == ["nyu-mll/glue"] and "/data/mine" not in text


def test_what_is_given_goes_to_metadata_and_text(runs: Runs) -> None:
    text = written(runs, base_model="other/base", license="apache-2.0", language=["en", "de"])
    data = ModelCard(text).data
    assert (data.base_model, data.license, data.language) == ("other/base", "apache-2.0", ["en", "de"])
    assert "## License\n\napache-2.0." in text and "huggingface.co/other/base" in text


def test_without_a_license_that_of_the_base_model_is_referred_to(card: str) -> None:
    assert "follow the license of its base model, [somebody/bert-tiny]" in card


def test_the_directory_of_the_run_can_have_its_own_card(runs: Runs) -> None:
    shutil.rmtree(runs.staged)
    text = write_card(runs.run, runs.run, "int8").read_text()
    assert "# int8\n" in text and "which computes it in floats" in text and "compressed-tensors" not in text


def test_a_dense_model_is_not_called_sparse(finished: Runs) -> None:
    text = write_card(finished.dense, finished.dense, "somebody/dense").read_text()
    assert ModelCard(text).data.tags == ["hf_sparse"] and "zeros in the" not in text
    assert "weights removed" not in text and "times smaller" not in text.split("## What is in it")[0]


def test_facts_of_any_kind_go_into_the_card(runs: Runs) -> None:
    facts = {
        "language": ["en", "de"],
        "dataset": ["nyu-mll/glue", "/data/mine.csv"],
        "year": 2024,
        "task": "x",
    }
    change(runs.run / "hf_sparse_run.json", facts=facts)
    made = describe(runs.run, runs.staged, REPO)
    assert (made.language, made.dataset, made.task) == (("en", "de"), "nyu-mll/glue, mine.csv", "x")
    assert made.stages[-1].facts["year"] == 2024 and facts_from_json(made.to_json()) == made
    text = str(render(made))
    assert ModelCard(text).data.datasets == ["nyu-mll/glue"] and "/data" not in text
    assert "| data | nyu-mll/glue, sst2 | nyu-mll/glue, mine.csv |" in text


def test_facts_are_the_same_from_every_directory(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs.home / "nyu-mll" / "glue").mkdir(parents=True)
    monkeypatch.chdir(runs.home)
    assert describe(runs.run, runs.staged, REPO).dataset == "nyu-mll/glue"


@pytest.mark.parametrize("given", ["/models/mine", "./mine", "dense"])
def test_a_base_model_that_lies_here_is_none_for_others(
    runs: Runs, given: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(runs.home)
    text = written(runs, base_model=given)
    assert ModelCard(text).data.base_model == "somebody/bert-tiny" and "mine" not in text
    assert f"does not name {given} as the base model" in caplog.text


def test_a_card_is_known_as_generated_until_somebody_changes_it(card: str) -> None:
    assert is_generated(card) and card.count("<!--") == 1
    assert not is_generated(card.replace("8 bits", "4 bits")) and not is_generated(f"{card}\nMine.\n")
    assert not is_generated("# tiny-int8\n") and not is_generated("")


def test_the_old_keyword_of_the_license_works(runs: Runs) -> None:
    with pytest.warns(FutureWarning, match=r"write card=CardOptions\(license=\.\.\.\)"):
        text = write_card(runs.run, runs.staged, REPO, licence="mit").read_text()
    assert ModelCard(text).data.license == "mit"


def test_a_section_is_one_function_and_one_line(finished: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def carbon(facts: Facts) -> str:
        seconds = sum(stage.seconds or 0 for stage in facts.stages)
        return f"Training took {seconds:.0f} s." if facts.stages else ""

    monkeypatch.setitem(SECTIONS, "Carbon", carbon)
    facts = describe(finished.run, finished.staged, REPO)
    text = str(render(facts))
    assert re.search(r"## License\n\n.*\n\n## Carbon\n\nTraining took [0-9]+ s\.\n\n<!--", text)
    assert is_generated(text)
    assert "Carbon" not in str(render(replace(facts, stages=())))
