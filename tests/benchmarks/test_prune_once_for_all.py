"""The comparison reads the stages that have been run."""

import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LANGUAGE = {"eval_accuracy": 0.12345, "perplexity": 800.0, "sparsity": 0.9, "train_runtime": 645.2}
TASK = {"eval_accuracy": 0.75, "sparsity": 0.9, "train_runtime": 1037.5}
STEPS = {"teacher": 250, "student": 300, "sst2_dense": 500, "sst2_transfer": 500, "sst2_gmp": 500}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import measuring
    import prune_once_for_all

    monkeypatch.setattr(measuring, "RESULTS", tmp_path / "results")
    return prune_once_for_all


def test_finished_stages_are_not_run_again(
    driver: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage, steps in STEPS.items():
        (tmp_path / stage).mkdir()
        found = LANGUAGE if stage in ("teacher", "student") else TASK
        (tmp_path / stage / "stage.json").write_text(json.dumps(found))
        (tmp_path / stage / "trainer_state.json").write_text(json.dumps({"global_step": steps}))
    monkeypatch.setattr(
        "sys.argv", f"x.py --task sst2 --encoder e --text t --task_data d --work {tmp_path}".split()
    )
    driver.main()

    result = json.loads((tmp_path / "results" / "prune_once_for_all_sst2.json").read_text())
    assert result["columns"] == [
        "stage",
        "steps",
        "seconds",
        "accuracy",
        "masked accuracy",
        "perplexity",
        "sparsity",
    ]
    assert {row["stage"]: row["steps"] for row in result["rows"]} == STEPS
    assert result["rows"][1] == {
        "stage": "student",
        "steps": 300,
        "seconds": 645,
        "masked accuracy": 0.1235,
        "perplexity": 800.0,
        "sparsity": 0.9,
    }
    assert result["rows"][4] == {
        "stage": "sst2_gmp",
        "steps": 500,
        "seconds": 1038,
        "accuracy": 0.75,
        "sparsity": 0.9,
    }
