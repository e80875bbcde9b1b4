"""Runs under FSDP2 that two processes begin, and one or four end."""

from pathlib import Path
from typing import Any

import pytest

from hf_sparse.checkpoint.sidecar import read_state
from tests.support.engines import LOADS_SHARDED
from tests.support.moved_runs import KINDS, in_replicas, moved
from tests.support.runs import differences
from tests.support.sharded_runs import STATES
from tests.support.together import run_together

Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("moved")


@pytest.fixture(scope="module")
def straight(folder: Path) -> Results:
    return run_together(moved, 2, folder / "2", 2, None)


@pytest.fixture(scope="module", params=[1, 4])
def resumed(request: pytest.FixtureRequest, straight: Results, folder: Path) -> Results:
    return run_together(moved, request.param, folder / f"{request.param}", request.param, folder / "2")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_run_goes_on_up_to_the_order_of_sums(
    state: str, kind: str, straight: Results, resumed: Results
) -> None:
    expected = straight[0][f"{kind}-{state}"]
    for rank in resumed:
        ours = rank[f"{kind}-{state}"]
        # Two steps of Adam at 1e-3, which turns rounding of tiny gradients into whole steps; Trainer's own
        # runs differ by as much.
        apart = {
            name: (ours["weights"][name] - values).abs().mean().item()
            for name, values in expected["weights"].items()
        }
        assert max(apart.values()) < 1e-4
        assert list(differences(ours, resumed[0][f"{kind}-{state}"])) == []


@pytest.mark.parametrize("state", STATES)
def test_masks_and_ranges_are_those_of_the_run(
    state: str, straight: Results, resumed: Results, folder: Path
) -> None:
    name = f"SparseTrainer-{state}"
    ours, expected = resumed[0][name], straight[0][name]
    assert ours["ranges"].keys() == expected["ranges"].keys()
    place = folder / f"{len(resumed)}" / name / "checkpoint-4"
    saved = read_state(place)
    assert list(differences(dict(saved.masks), ours["masks"])) == []
    for weight in ours["weights"]:
        zeros = [int((result["weights"][weight] == 0).sum()) for result in (ours, expected)]
        assert zeros[0] == zeros[1]


def test_what_does_not_continue_the_run_is_refused(resumed: Results) -> None:
    for rank in resumed:
        found = rank["refused"]
        assert "lacks pytorch_model_fsdp_0" in found["state"]
        assert "resume with FULL_STATE_DICT, as it was written" in found["state"]
        assert "was written with other training arguments" in found["rows"]


@pytest.mark.skipif(not LOADS_SHARDED, reason="transformers here does not shard as it loads")
def test_replicas_prune_as_one_process_group(straight: Results, folder: Path) -> None:
    ranks = run_together(in_replicas, 4, folder / "replicas")
    expected = straight[0][f"SparseTrainer-{STATES[0]}"]
    for ours in ranks:
        assert ours["placements"] == {"(Replicate(), Shard(dim=0))"}
        assert list(differences(ours["masks"], ranks[0]["masks"])) == []
        for name, values in expected["weights"].items():
            assert int((ours["weights"][name] == 0).sum()) == int((values == 0).sum())
            # Sums in another order move a few blocks across the threshold.
            assert (ours["weights"][name] - values).abs().mean() < 5e-4
