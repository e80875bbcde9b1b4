"""The cells of the table of engines for DeepSpeed ZeRO: a run equals that of DDP, or is refused at once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.engine_table import CASES, ENGINES
from tests.support.zero import run, run_together

pytest.importorskip("deepspeed", reason="DeepSpeed is not among the pinned packages: make test-deepspeed")

# A tenth of the longest step of Adam, which is as long for gradients of rounding errors as for others.
CLOSE = 1e-4
STEPS = 6
# What the error says, by how the reason in the table begins.
REASONS = {
    "the method": "changes gradients or weights at every step",
    "revival": "take stage 1 or 2, or set sparsity.revive=false",
    "projections": "projections to the teacher's width join the optimizer",
}
ZERO = [engine for engine in ENGINES.values() if engine.stage is not None]
WORKS = [(name, engine.stage) for name in CASES for engine in ZERO if name not in engine.refused]
REFUSED = [(name, engine.stage) for name in CASES for engine in ZERO if name in engine.refused]
Found = dict[tuple[str, int | None], Any]


def job(rank: int, folder: Path) -> Found:
    # DDP first: a process that has used DeepSpeed uses it from then on.
    cells = [*dict.fromkeys((name, None) for name, _ in WORKS), *WORKS, *REFUSED]
    settings = {"max_steps": STEPS, "save_steps": STEPS}
    return {
        (name, stage): run(
            folder / f"{number}", stage, CASES[name].recipe, width=CASES[name].width, **settings
        )
        for number, (name, stage) in enumerate(cells)
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    return run_together(job, 2, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize(("case", "stage"), WORKS)
def test_what_works_equals_ddp(case: str, stage: int, ranks: list[Found]) -> None:
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
        assert len(ours["log"]) == len(expected["log"]) == STEPS
        for line, other in zip(ours["log"], expected["log"], strict=True):
            assert line == pytest.approx(other, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("case", "stage"), REFUSED)
def test_what_is_refused_never_begins(case: str, stage: int, ranks: list[Found]) -> None:
    said = ENGINES[f"ZeRO-{stage}"].refused[case]
    (reason,) = (text for begin, text in REASONS.items() if said.startswith(begin))
    for rank in ranks:
        assert reason in rank[case, stage]["refused"]
        assert rank[case, stage]["steps"] == 0
