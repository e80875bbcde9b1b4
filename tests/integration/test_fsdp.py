"""Two processes that share out one model by accelerate's FSDP2, as one process would train it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hf_sparse.checkpoint.run_record import RECORD
from hf_sparse.checkpoint.sidecar import RANGES, SIDECAR, check_weights, read_state
from hf_sparse.training.checkpoints.manifest import MANIFEST, check_manifest
from tests.support import sharded_runs
from tests.support.engines import saved_weights
from tests.support.runs import differences
from tests.support.sharded_runs import FEATURES, ROUNDED, STATES, close, files
from tests.support.together import run_together

PROCESSES = 2
OWN = {SIDECAR, MANIFEST, RECORD, *(f"hf_sparse_pass_{rank}.pth" for rank in range(PROCESSES))}
PLAIN = {"model.safetensors", "config.json", "training_args.bin"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return run_together(sharded_runs.together, PROCESSES, folder, PROCESSES)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return sharded_runs.alone(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("state", STATES)
def test_an_empty_recipe_trains_and_saves_as_trainer(
    state: str, ranks: list[dict[str, Any]], folder: Path
) -> None:
    for rank in ranks:
        assert list(differences(rank[f"Trainer-{state}"], rank[f"SparseTrainer-{state}"])) == []
    theirs, ours = (set(files(folder / f"{kind}-{state}")) for kind in ("Trainer", "SparseTrainer"))
    assert theirs <= ours
    assert {Path(name).name for name in ours - theirs} == OWN - {SIDECAR}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("step", [2, 4])
def test_a_checkpoint_is_whole_with_plain_weights_and_one_sidecar(
    state: str, step: int, ranks: list[dict[str, Any]], folder: Path
) -> None:
    checkpoint = folder / f"quantized-{state}" / f"checkpoint-{step}"
    theirs = set(files(folder / f"Trainer-{state}" / f"checkpoint-{step}"))
    assert set(files(checkpoint)) == theirs | PLAIN | OWN
    check_manifest(checkpoint)
    saved = read_state(checkpoint)
    assert set(saved.weights) == {"model.safetensors"} and saved.step == step
    check_weights(checkpoint / SIDECAR, saved.weights, lambda name: checkpoint / name)
    assert not list((folder / f"quantized-{state}").glob("_saving*"))
    record = json.loads((checkpoint / RECORD).read_text())
    assert (record["architecture"], record["arguments"]["processes"]) == (
        "BertForSequenceClassification",
        PROCESSES,
    )


@pytest.mark.parametrize("state", STATES)
def test_what_is_saved_is_the_gathered_model(state: str, ranks: list[dict[str, Any]], folder: Path) -> None:
    final = folder / f"quantized-{state}" / "final"
    weights = ranks[0][f"quantized-{state}"]["weights"]
    assert list(differences(saved_weights(final), weights)) == []
    loaded = AutoModelForSequenceClassification.from_pretrained(final)
    assert type(loaded).__name__ == "BertForSequenceClassification"
    ranges = dict(read_state(final).extras[RANGES])
    assert list(differences(ranges, ranks[0][f"quantized-{state}"]["ranges"])) == []


@pytest.mark.parametrize("state", STATES)
def test_a_run_resumes_bit_for_bit_and_loads_its_best_model(state: str, ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        straight, resumed = rank[f"quantized-{state}"], rank[f"quantized-{state}-resumed"]
        assert list(differences(straight["weights"], resumed["weights"])) == []
        assert list(differences(straight["ranges"], resumed["ranges"])) == []
        assert straight["losses"] == resumed["losses"]


@pytest.mark.parametrize("name", FEATURES)
def test_a_teacher_teaches_as_in_one_process(
    name: str, ranks: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    for rank in ranks:
        close(rank["taught"][name], alone["taught"][name])
    assert ("loss_hidden" in ranks[0]["taught"][name]["losses"][0]) == (name == "hidden")


@pytest.mark.parametrize("observer", ROUNDED)
def test_ranges_cover_the_batches_of_all_processes(
    observer: str, ranks: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    ours, expected = (result["rounded"][observer] for result in (ranks[0], alone))
    for rank in ranks:
        assert list(differences(rank["rounded"][observer]["ranges"], ours["ranges"])) == []
    assert ours["ranges"].keys() == expected["ranges"].keys() and len(ours["ranges"]) == 12
    # The mean of two batches' ranges is within that of both together.
    share = 0.02 if observer == "min_max" else 0.3
    for name, theirs in expected["ranges"].items():
        width = (theirs[1] - theirs[0]).item()
        torch.testing.assert_close(ours["ranges"][name], theirs, rtol=0, atol=share * width)


def test_where_the_first_process_alone_reads_weights_all_have_its_zeros_and_teacher(
    ranks: list[dict[str, Any]],
) -> None:
    for rank in ranks:
        assert list(differences(rank["read by one"], rank["read by all"])) == []
        assert rank["read by one"]["masks"] == ranks[0]["read by one"]["masks"]


REASONS = {
    "offloaded": "offloads to the CPU is not supported.*set cpu_offload to false",
    "offloaded, rounded": "offloads to the CPU is not supported.*set cpu_offload to false",
    "movement": "movement join the optimizer.*take method magnitude or group_lasso",
    "projections": "projections to the teacher's width join the optimizer.*take a teacher of the student's",
}


@pytest.mark.parametrize("case", REASONS)
def test_what_is_not_supported_is_refused_on_every_process(case: str, ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["refused"][case] and re.search(REASONS[case], rank["refused"][case])
