"""The cells of the table of engines: it trains as one process does, or is refused before the first step.

Those of DeepSpeed are in test_deepspeed.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_sparse.checkpoint.sidecar import read_state
from hf_sparse.sparsity.masks import Masks
from hf_sparse.targets import find_targets
from tests.support.engine_cells import cells, student
from tests.support.engine_table import CASES, ENGINES, table
from tests.support.engines import saved_weights
from tests.support.runs import differences
from tests.support.together import run_together

ALONE = "one process"
OTHERS = [name for name, engine in ENGINES.items() if name != ALONE and engine.stage is None]
PAGE = Path(__file__).parents[2] / "docs" / "parallel.md"
Cells = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    return cells(0, tmp_path_factory.mktemp("alone"), ALONE)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Cells]]:
    """What each process of each engine found, filled in as engines are asked for."""
    return {}


def of_engine(engine: str, results: dict[str, list[Cells]], factory: pytest.TempPathFactory) -> list[Cells]:
    if engine not in results:
        # Tried once.
        results[engine] = []
        folder = factory.mktemp("engine")
        results[engine] = run_together(cells, ENGINES[engine].processes, folder, engine)
    return results[engine]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("engine", OTHERS)
def test_a_cell_of_the_table(
    engine: str,
    case: str,
    alone: Cells,
    results: dict[str, list[Cells]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ranks = of_engine(engine, results, tmp_path_factory)
    assert len(ranks) == ENGINES[engine].processes
    found, expected = [rank[case] for rank in ranks], alone[case]
    if case in ENGINES[engine].refused:
        for rank in found:
            assert "join the optimizer" in rank["refused"]
        return
    assert "refused" not in found[0] | expected
    # Random projections apart, losses are those of one process up to the order of sums.
    for rank in found:
        for ours, theirs in zip(rank["losses"], expected["losses"], strict=True):
            assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-6)
        assert rank["scores"] == pytest.approx(expected["scores"], rel=2e-3)
        for part in ("masks", "first", "removed", "ranges"):
            assert list(differences(rank[part], found[0][part])) == []
    if expected["masks"] is None:
        return
    # Equal weights make equal masks, bit for bit; later, weights differ in their last bits.
    assert found[0]["first"] == expected["first"]
    assert found[0]["removed"] == expected["removed"]
    assert _apart(found[0]["masks"], expected["masks"]) < 0.01
    saved = Path(found[0]["place"])
    assert dict(_bytes(saved)) == found[0]["masks"]
    weights, masks = saved_weights(saved), Masks(find_targets(student(False)))
    masks.unpack(read_state(saved).masks)
    for name in masks.targets.names:
        assert not weights[name][~masks[name]].any()


def test_the_page_shows_this_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    _, shown, _ = text.split("<!-- engines -->\n")
    assert shown == "\n".join(table()) + "\n"


def _bytes(directory: Path) -> dict[str, bytes]:
    return {name: bytes(values.numpy()) for name, values in read_state(directory).masks.items()}


def _apart(ours: dict[str, bytes], theirs: dict[str, bytes]) -> float:
    """Return the share of weights that only one of two sets of masks removes."""
    masks = [Masks(find_targets(student(False))) for _ in range(2)]
    for held, packed in zip(masks, (ours, theirs), strict=True):
        bits = {name: bytearray(content) for name, content in packed.items()}
        held.unpack({name: torch.frombuffer(content, dtype=torch.uint8) for name, content in bits.items()})
    names = masks[0].targets.names
    different = sum(int((masks[0][name] != masks[1][name]).sum()) for name in names)
    return different / sum(masks[0][name].numel() for name in names)
