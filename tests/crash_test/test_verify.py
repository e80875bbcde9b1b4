"""Every method is trained, killed and resumed by the crash test; a fault is found by it."""

from pathlib import Path

import pytest

from hf_sparse import Recipe
from hf_sparse.crash_test import verify
from hf_sparse.crash_test.job import Job
from hf_sparse.crash_test.moments import SAVE, STEP, UPDATE
from tests.crash_test.faults import without_remembered_values, written_in_place
from tests.support.doomed import cheap_processes
from tests.support.tiny import pruning

LASSO = ["sparsity.schedule.begin=7", "sparsity.group_lasso={refresh: 3, every: 2}"]
REVIVAL = pruning("sparsity.revive=true", "sparsity.schedule.update_end=9")


@pytest.fixture(autouse=True)
def quick() -> None:
    cheap_processes()


def job(recipe: Recipe, **changes: object) -> Job:
    return Job(recipe.to_dict(), **({"max_steps": 10, "save_steps": 2} | changes))


@pytest.mark.parametrize(
    "recipe",
    [
        pruning(),
        REVIVAL,
        Recipe.preset("prune_ofa_90").override(
            ["sparsity.schedule.every=1", "distillation.hidden=0.5", "quantization={begin: 2, freeze: 8}"]
        ),
        Recipe.preset("group_lasso_block").override(LASSO),
        Recipe.preset("group_lasso_block").override([*LASSO, "sparsity.group_lasso.step=gradient"]),
        pruning("sparsity.method=soft_movement", "sparsity.schedule.update_end=9"),
        Recipe.preset("transfer_int8"),
    ],
    ids=[
        "magnitude",
        "revival",
        "teacher in 8 bits",
        "lasso",
        "lasso by gradient",
        "movement",
        "lock in 8 bits",
    ],
)
def test_a_killed_run_ends_like_a_straight_one(recipe: Recipe, tmp_path: Path) -> None:
    heard: list[verify.Death] = []
    found = verify.verify_resume(job(recipe), tmp_path, kills=2, seed=0, heard=heard.append)
    assert (found.difference, found.faults) == (None, []) and found.passed
    # Some steps are taken again after a kill, and the end is compared as well.
    assert found.compared >= 11
    assert heard == found.deaths and len(heard) == 2 and all(death.inside for death in heard)
    assert [death.checkpoint % 2 for death in heard] == [0, 0]


def test_kills_fall_into_steps_updates_and_saves(tmp_path: Path) -> None:
    found = verify.verify_resume(job(pruning(), save_steps=1), tmp_path, kills=3, seed=1)
    assert found.passed
    assert {death.kill.moment.where for death in found.deaths} == {STEP, UPDATE, SAVE}


def test_a_state_that_is_not_saved_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "train", without_remembered_values)
    found = verify.verify_resume(job(REVIVAL), tmp_path, kills=2, seed=0)
    assert not found.passed and found.faults == []
    assert found.step == found.resumed_from + 1 > 1
    assert found.difference.kind == "remembered values"


def test_an_incomplete_checkpoint_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = verify._Runs.launch

    def launch(runs: verify._Runs, *args: object, **kwargs: object) -> str:
        # The straight run shows what a whole checkpoint holds.
        faulty = runs.folder.name == "killed"
        monkeypatch.setattr(verify, "train", written_in_place if faulty else verify.train)
        return original(runs, *args, **kwargs)

    monkeypatch.setattr(verify._Runs, "launch", launch)
    found = verify.verify_resume(job(pruning()), tmp_path, kills=2, seed=0)
    assert not found.passed and any("lacks optimizer.pt" in fault for fault in found.faults)


def test_a_run_that_cannot_be_trained_is_refused_with_its_own_error(tmp_path: Path) -> None:
    impossible = pruning("sparsity.schedule.ramp_end=11", "sparsity.schedule.update_end=11")
    with pytest.raises(ValueError, match="ramp_end"):
        verify.verify_resume(job(impossible), tmp_path, kills=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 1}, "has at least 2 steps, got 1"),
        ({"dataset": "texts.txt"}, "read by a model's tokenizer; give the model"),
        ({"teacher": "bert"}, "a teacher teaches a given model; give the model"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job(pruning(), **changes)


def test_several_processes_die_and_resume_together(tmp_path: Path) -> None:
    two = job(pruning(), processes=2, max_steps=6, batch=2)
    found = verify.verify_resume(two, tmp_path, kills=1, seed=2)
    assert found.passed, (found.difference, found.faults)
    # The states of both processes after each step and at the end.
    assert found.compared >= 14
