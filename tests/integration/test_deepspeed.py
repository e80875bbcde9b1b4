"""Every stage of DeepSpeed ZeRO trains as DDP does, or is refused before the first step."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.zero import RECIPES, STAGES, run, run_together

pytest.importorskip("deepspeed", reason="DeepSpeed is not among the pinned packages: make test-deepspeed")

# A tenth of the largest step of Adam, which is as long for gradients of rounding errors as for others.
CLOSE = 1e-4
WORKS = [name for name in RECIPES if name not in ("group_lasso", "movement", "projections")]
REFUSED = {
    "group_lasso": "method group_lasso changes gradients or weights at every step",
    "movement": "method movement changes gradients or weights at every step",
    "projections": "projections to the teacher's width are not sharded under FSDP or DeepSpeed; take a",
}


def job(rank: int, folder: Path) -> dict[tuple[str, int | None], Any]:
    # DDP first: a process that has used DeepSpeed uses it from then on.
    return {
        (name, stage): run(folder / f"{name}-{stage}", stage, name)
        for stage in (None, *STAGES)
        for name in RECIPES
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, int | None], Any]]:
    return run_together(job, 2, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", WORKS)
def test_a_run_equals_that_of_ddp(name: str, stage: int, ranks: list[Any]) -> None:
    if (name, stage) == ("revive", 3):
        pytest.skip("refused, which another test shows")
    expected = ranks[0][name, None]
    for rank in ranks:
        ours = rank[name, stage]
        assert "refused" not in ours, ours
        assert ours["masks"].keys() == expected["masks"].keys()
        for target, mask in expected["masks"].items():
            assert torch.equal(ours["masks"][target], mask)
        for key, value in expected["weights"].items():
            torch.testing.assert_close(ours["weights"][key], value, rtol=0, atol=CLOSE)
            assert torch.equal(ours["weights"][key] == 0, value == 0)
        for key, value in expected["ranges"].items():
            torch.testing.assert_close(ours["ranges"][key], value, rtol=1e-4, atol=0)
        assert len(ours["log"]) == len(expected["log"]) == 8
        for line, other in zip(ours["log"], expected["log"], strict=True):
            assert line == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_before_the_first_step(
    name: str, stage: int, ranks: list[Any]
) -> None:
    for rank in ranks:
        assert "refused" not in rank[name, None]
        assert REFUSED[name] in rank[name, stage]["refused"]
        assert rank[name, stage]["steps"] == 0


def test_revival_is_refused_where_weights_are_divided(ranks: list[Any]) -> None:
    for rank in ranks:
        assert "take stage 1 or 2, or set sparsity.revive=false" in rank["revive", 3]["refused"]
        assert rank["revive", 3]["steps"] == 0


@pytest.mark.parametrize("name", WORKS)
def test_all_processes_agree(name: str, ranks: list[Any]) -> None:
    for stage in STAGES:
        ours, theirs = (rank[name, stage] for rank in ranks)
        for part in ("masks", "ranges"):
            for key, value in ours.get(part, {}).items():
                assert torch.equal(value, theirs[part][key])
