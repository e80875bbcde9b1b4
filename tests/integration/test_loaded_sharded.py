"""Two processes that share out a model as transformers loads it, as one process would train it."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from hf_sparse.checkpoint.run_record import RECORD
from hf_sparse.checkpoint.sidecar import RANGES, SIDECAR, check_weights, read_state
from hf_sparse.training.checkpoints.manifest import MANIFEST, check_manifest
from tests.support import loaded_sharded, sharded_runs
from tests.support.engines import LOADS_SHARDED, saved_weights
from tests.support.runs import differences
from tests.support.sharded_runs import FEATURES, ROUNDED, close, files
from tests.support.together import run_together

pytestmark = pytest.mark.skipif(not LOADS_SHARDED, reason="transformers here does not shard as it loads")
PROCESSES = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loaded")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return run_together(loaded_sharded.together, PROCESSES, folder, PROCESSES)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return sharded_runs.alone(tmp_path_factory.mktemp("alone"))


def test_an_empty_recipe_trains_and_saves_as_trainer(ranks: list[dict[str, Any]], folder: Path) -> None:
    for rank in ranks:
        assert list(differences(rank["Trainer"], rank["SparseTrainer"])) == []
    theirs, ours = (set(files(folder / name)) for name in ("Trainer", "SparseTrainer"))
    assert theirs <= ours
    assert {Path(name).name for name in ours - theirs} == {RECORD, MANIFEST}


@pytest.mark.parametrize("name", FEATURES)
def test_a_teacher_teaches_as_in_one_process(
    name: str, ranks: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    for rank in ranks:
        close(rank["taught"][name], alone["taught"][name])


def test_a_sharded_teacher_teaches_as_a_whole_one(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        found, expected = rank["sharded teacher"], rank["taught"]["hidden"]
        assert found["losses"] == expected["losses"]
        assert list(differences(found["weights"], expected["weights"])) == []
        assert list(differences(found["teacher"], sharded_runs.calm(seed=1).state_dict())) == []


@pytest.mark.parametrize("observer", ROUNDED)
def test_what_is_saved_is_the_gathered_model_with_its_ranges(
    observer: str, ranks: list[dict[str, Any]], folder: Path
) -> None:
    found = [rank["rounded"][observer] for rank in ranks]
    assert list(differences(found[0]["ranges"], found[1]["ranges"])) == []
    place = folder / f"rounded-{observer}"
    for directory in (place / "final", place / "checkpoint-2", place / "checkpoint-4"):
        check_manifest(directory)
        saved = read_state(directory)
        check_weights(directory / SIDECAR, saved.weights, directory.__truediv__)
    assert list(differences(dict(saved.extras[RANGES]), found[0]["ranges"])) == []
    assert list(differences(saved_weights(place / "final"), found[0]["weights"])) == []
    loaded = AutoModelForSequenceClassification.from_pretrained(place / "final")
    assert type(loaded).__name__ == "BertForSequenceClassification"


def test_a_sharded_model_cannot_be_copied_as_its_own_teacher(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert re.search(
            "PyTorch does not copy one that is sharded.*pass it as teacher=", rank["own teacher"]
        )


def test_weights_that_trainer_cannot_load_are_refused_before(
    ranks: list[dict[str, Any]], folder: Path
) -> None:
    for rank in ranks:
        assert "load_best_model_at_end is set, and Trainer cannot load weights" in rank["best"]
        assert "checkpoint-2 cannot be resumed" in rank["resumed"] and "--fsdp instead" in rank["resumed"]
    assert not list((folder / "best").glob("checkpoint-*"))
