"""Every cell of the table in docs/deepspeed.md: a run equals that of DDP, or is refused at once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.guides.reading import ROOT
from tests.support.zero import STAGES, Case, run, run_together

pytest.importorskip("deepspeed", reason="DeepSpeed is not among the pinned packages: make test-deepspeed")

# A tenth of the longest step of Adam, which is as long for gradients of rounding errors as for others.
CLOSE = 1e-4
REASONS = {
    "group_lasso": "method group_lasso changes gradients or weights at every step",
    "movement": "method movement changes gradients or weights at every step",
    "magnitude with revive": "take stage 1 or 2, or set sparsity.revive=false",
    "hidden, wider teacher": "projections to the teacher's width join the optimizer",
}


def table() -> dict[tuple[Case, int], str]:
    """Return what the page says of each recipe and stage."""
    lines = (ROOT / "docs" / "deepspeed.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {
        (Case(*row[:3]), stage): said
        for row in rows
        if len(row) == 3 + len(STAGES) and row[-1] in ("works", "refused")
        for stage, said in zip(STAGES, row[3:], strict=True)
    }


CELLS = table()
WORKS = [cell for cell, said in CELLS.items() if said == "works"]
REFUSED = [cell for cell, said in CELLS.items() if said == "refused"]


def job(rank: int, folder: Path) -> dict[tuple[Case, int | None], Any]:
    # DDP first: a process that has used DeepSpeed uses it from then on.
    cells = [*dict.fromkeys((case, None) for case, _ in WORKS), *CELLS]
    return {
        (case, stage): run(folder / f"{number}", stage, case, max_steps=6, save_steps=6)
        for number, (case, stage) in enumerate(cells)
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[Case, int | None], Any]]:
    return run_together(job, 2, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize(("case", "stage"), WORKS)
def test_what_works_equals_ddp(case: Case, stage: int, ranks: list[Any]) -> None:
    expected = ranks[0][case, None]
    for rank in ranks:
        ours = rank[case, stage]
        assert "refused" not in ours, ours
        assert ours["masks"].keys() == expected["masks"].keys()
        for target, mask in expected["masks"].items():
            assert torch.equal(ours["masks"][target], mask)
        for key, value in expected["weights"].items():
            torch.testing.assert_close(ours["weights"][key], value, rtol=0, atol=CLOSE)
            assert torch.equal(ours["weights"][key] == 0, value == 0)
        for key, value in ranks[0][case, stage]["ranges"].items():
            assert torch.equal(ours["ranges"][key], value)
            torch.testing.assert_close(value, expected["ranges"][key], rtol=1e-3, atol=0)
        assert len(ours["log"]) == len(expected["log"]) == 6
        for line, other in zip(ours["log"], expected["log"], strict=True):
            assert line == pytest.approx(other, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("case", "stage"), REFUSED)
def test_what_is_refused_never_begins(case: Case, stage: int, ranks: list[Any]) -> None:
    reason = REASONS[case.method if case.method in REASONS else case.distillation]
    for rank in ranks:
        assert reason in rank[case, stage]["refused"]
        assert rank[case, stage]["steps"] == 0
