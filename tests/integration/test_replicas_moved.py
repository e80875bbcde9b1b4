"""A run under DDP that four processes begin, and one, two or three end."""

from pathlib import Path
from typing import Any

import pytest

from hf_sparse.checkpoint.sidecar import read_state
from tests.support.replicas import STEPS, replica
from tests.support.runs import checkpoint, differences
from tests.support.together import run_together

Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def four(folder: Path) -> Results:
    return run_together(replica, 4, folder / "4", 4, None)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_run_goes_on_up_to_the_order_of_sums(processes: int, four: Results, folder: Path) -> None:
    place = folder / f"{processes}"
    ranks = run_together(replica, processes, place, processes, folder / "4")
    for rank in ranks:
        assert list(differences(rank, ranks[0])) == []
    expected, ours = four[0], ranks[0]
    for name, values in expected["weights"].items():
        # Three steps of Adam at 1e-3, which turns rounding of tiny gradients into whole steps.
        assert (ours["weights"][name] - values).abs().mean() < 2e-4, name
        assert int((ours["weights"][name] == 0).sum()) == int((values == 0).sum()), name
    saved = read_state(checkpoint(place / "run", STEPS))
    assert list(differences(dict(saved.masks), ours["masks"])) == []
