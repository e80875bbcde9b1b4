"""The simulation of many accelerators: its arithmetic, and that the committed file is what it returns."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

from benchmarks import scale  # noqa: E402

FOUND = {"quantized": 1.2, "mask bits": 0.5}
BERT, BIG = scale.MODELS[0], scale.MODELS[-1]


def test_the_committed_file_is_what_the_simulation_returns() -> None:
    committed = json.loads((FOLDER / "results" / "scale.json").read_text(encoding="utf-8"))
    assert committed["rows"] == scale.simulate(scale.measured())
    assert committed["settings"] == scale.settings(scale.measured())


def test_a_step_without_teacher_is_three_forward_passes_of_the_tokens_of_an_accelerator() -> None:
    stage = scale.stages()[0]
    student, teacher = scale.arithmetic(BERT, stage, scale.H100, 8)
    tokens = 256 / 8 * 512
    per_token = 2 * (302e6 + 31e6) + 4 * 512 * 1024 * 24
    assert student == pytest.approx(3 * tokens * per_token / (989e12 * 0.4)) and teacher == 0


def test_more_accelerators_than_texts_do_not_make_a_step_shorter() -> None:
    stage = scale.stages()[1]
    assert scale.arithmetic(BERT, stage, scale.H100, 256) == scale.arithmetic(BERT, stage, scale.H100, 512)


def test_communication_hides_behind_the_backward_pass() -> None:
    sent = 8 * BERT.parameters * 7 / 8 / 450e9
    assert scale.exposed(BERT, scale.H100, 8, compute=sent * 1.5) == pytest.approx(0)
    assert scale.exposed(BERT, scale.H100, 8, compute=0.0) == pytest.approx(sent)


def test_what_does_not_fit_is_sharded_or_said_to_break() -> None:
    small = scale.Accelerator("small", 1e15, 0.4, 10e9, 1e12, 1e11, 1e11)
    rows = {(row["model"], row["accelerators"]): row for row in scale.simulate(FOUND, small)}
    assert rows[BERT.name, 8]["engine"] == "DDP"
    assert rows[BIG.name, 8]["what breaks"].startswith("memory, even sharded")
    assert rows[BIG.name, 512]["what breaks"].startswith("memory of DDP")
    for row in rows.values():
        fits = row["GB each"] <= 10
        assert fits or "even sharded" in row["what breaks"]


def test_the_shares_of_a_step_are_all_of_it() -> None:
    for row in scale.simulate(FOUND):
        parts = ("student", "teacher", "optimizer", "masks", "waiting")
        assert sum(row[part] for part in parts) == pytest.approx(1, abs=0.01)


def test_accelerators_are_never_cheaper_in_larger_numbers() -> None:
    for model in scale.MODELS:
        spent = [row["accelerator days"] for row in scale.simulate(FOUND) if row["model"] == model.name]
        assert spent == sorted(spent)
