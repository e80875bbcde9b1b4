"""Results that say where they come from."""

import json
from pathlib import Path

import pytest

from hf_sparse.runs.results import write_results


def test_results_are_written_with_their_origin(tmp_path: Path) -> None:
    written = write_results(tmp_path / "results.json", {"accuracy": 0.5})
    assert json.loads((tmp_path / "results.json").read_text()) == written
    assert written["accuracy"] == 0.5
    assert {"date", "hardware", "versions"} <= written.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_result_that_json_does_not_know_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_results(tmp_path / "results.json", {"accuracy": float("nan")})
    assert not list(tmp_path.iterdir())
