"""Two processes under accelerate's FSDP2 in less usual ways."""

from pathlib import Path
from typing import Any

import pytest

from hf_sparse import find_targets
from hf_sparse.checkpoint.sidecar import RANGES, SIDECAR, read_state
from hf_sparse.training.checkpoints.manifest import MANIFEST
from tests.support.engines import saved_weights
from tests.support.runs import differences
from tests.support.sharded_edges import edges
from tests.support.tiny import bert
from tests.support.together import run_together

PROCESSES = 2
Ranks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("edges")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> Ranks:
    return run_together(edges, PROCESSES, folder, PROCESSES)


def zeros(weights: dict[str, Any]) -> float:
    targets = find_targets(bert())
    return sum(int((weights[name] == 0).sum()) for name in targets.names) / sum(
        rows * columns for rows, columns in targets.shapes.values()
    )


def test_the_callback_prunes_and_resumes_bit_for_bit(ranks: Ranks, folder: Path) -> None:
    for rank in ranks:
        assert list(differences(rank["callback"]["weights"], rank["callback resumed"]["weights"])) == []
        assert rank["callback"]["masks"] == rank["callback resumed"]["masks"] == ranks[0]["callback"]["masks"]
    assert zeros(ranks[0]["callback"]["weights"]) == pytest.approx(0.6, abs=0.01)
    saved = read_state(folder / "callback" / "checkpoint-4")
    assert {name: bytes(values.numpy()) for name, values in saved.masks.items()} == ranks[0]["callback"][
        "masks"
    ]


def test_infinite_weights_of_one_process_end_the_run_on_all(ranks: Ranks) -> None:
    for rank in ranks:
        assert "bert.pooler.dense.weight holds NaN" in rank["diverged"]["error"]


def test_the_best_model_comes_with_its_masks(ranks: Ranks, folder: Path) -> None:
    step = ranks[0]["best"]["step"]
    assert step in (3, 4)
    final = read_state(folder / "best" / "final")
    masks = {name: bytes(values.numpy()) for name, values in final.masks.items()}
    for rank in ranks:
        assert rank["best"]["masks"] == masks
    assert zeros(saved_weights(folder / "best" / "final")) == pytest.approx(0.6, abs=0.01)


def test_a_checkpoint_of_weights_alone_has_its_sidecar(ranks: Ranks) -> None:
    files = set(ranks[0]["weights alone"]["files"])
    for step in (2, 4):
        assert {f"checkpoint-{step}/{name}" for name in (SIDECAR, MANIFEST, "model.safetensors")} <= files
        assert not any(name.startswith(f"checkpoint-{step}/optimizer") for name in files)


@pytest.mark.parametrize("way", ["bf16", "checkpointed", "compiled"])
def test_other_ways_to_compute_leave_zeros_ranges_and_names(way: str, ranks: Ranks, folder: Path) -> None:
    names = find_targets(bert()).names
    for rank in ranks:
        assert rank[way]["masks"] == sorted(names)
        assert rank[way]["sections"][RANGES] == sorted(name.removesuffix(".weight") for name in names)
        assert list(differences(rank[way]["ranges"], ranks[0][way]["ranges"])) == []
    weights = saved_weights(folder / way / "final")
    assert weights.keys() == bert().state_dict().keys()
    assert zeros(weights) == pytest.approx(0.6, abs=0.01)
