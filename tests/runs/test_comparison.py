"""Runs side by side: which compare, and what differs between them."""

import json
from pathlib import Path

import pytest

from hf_sparse.runs.comparison import comparison_as_dict
from tests.report.runs import PRUNED, compared, write_run


def test_only_what_differs_is_listed(tmp_path: Path) -> None:
    lower = PRUNED | {"sparsity": {"method": "magnitude", "schedule": {"final": 0.25}}}
    comparison = compared(
        write_run(tmp_path / "a", sparsity=None),
        write_run(tmp_path / "b", sparsity=None, recipe=lower, arguments={"learning_rate": 2e-3, "seed": 42}),
        write_run(tmp_path / "plain", sparsity=None, recipe={}, base_model="/somewhere/a"),
    )
    found = {
        name: {value: [run.name for run in runs] for value, runs in values.items()}
        for name, values in comparison.differences.items()
    }
    assert found["learning_rate"] == {"0.001": ["a", "plain"], "0.002": ["b"]}
    assert found["sparsity.schedule.final"] == {"0.5": ["a"], "0.25": ["b"]}
    assert found["base model"] == {"a": ["plain"]}
    assert "seed" not in found
    # All that is set alike by those that have it, and not by another, differs too.
    assert found["sparsity.method"] == {"magnitude": ["a", "b"]}
    assert list(found).index("base model") < list(found).index("sparsity.method")


def test_one_run_differs_from_nothing(tmp_path: Path) -> None:
    assert compared(write_run(tmp_path / "a", sparsity=None)).differences == {}


def test_a_run_without_a_record_is_not_said_to_differ(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / name, sparsity=None) for name in "ab")
    (second / "hf_sparse_run.json").unlink()
    assert compared(first, second).differences == {}


def test_everything_is_in_the_json(tmp_path: Path) -> None:
    comparison = compared(
        write_run(tmp_path / "a", milliseconds=1.0), write_run(tmp_path / "b", sparsity=0.0)
    )
    found = json.loads(json.dumps(comparison_as_dict(comparison)))
    first = found["runs"][0]
    assert first["sparsity"] == 0.5 and first["milliseconds"] == 1.0 and first["scores"]["loss"] == 0.7
    assert found["conditions"]["processor"] == "Abacus" and found["differences"] == {}


def test_a_time_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    home = write_run(tmp_path / "a", sparsity=None, seconds=float("nan"))
    with pytest.raises(
        ValueError, match="hf_sparse_run.json is not a valid record of a run .NaN is not a number"
    ):
        compared(home)
