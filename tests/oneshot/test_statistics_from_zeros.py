"""Wanda and SparseGPT on weights that are partly removed already."""

import numpy as np
import pytest
import torch

from hf_sparse.oneshot.prune_with_data import DATA_METHODS
from hf_sparse.oneshot.sparsegpt import SparseGpt
from hf_sparse.oneshot.wanda import Wanda
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block
from hf_sparse.sparsity.patterns.n_of_m import NOfM
from tests.oneshot.numbers import inputs_alike, noise

TWO_OF_FOUR = NOfM(kept=2, group=4)


def pruned(
    method: str, original: torch.Tensor, kept: torch.Tensor, sparsity: float, block: Block = UNSTRUCTURED
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune a weight that begins with the zeros of `kept`; return weight and mask."""
    statistics = DATA_METHODS[method](original * kept, kept.clone())
    statistics.add(inputs_alike(width=original.shape[1]))
    return statistics.weight, statistics.prune(sparsity, block)


def tenth_gone(rows: int = 24, columns: int = 32) -> torch.Tensor:
    return noise(rows, columns, seed=3) > -1.28


def test_wanda_takes_what_is_gone_for_the_first_to_go_even_where_an_input_is_never_there() -> None:
    kept = torch.tensor([[True, True, True, False]])
    statistics = Wanda(torch.tensor([[5.0, 2.0, 3.0, 0.0]]), kept)
    statistics.add(torch.tensor([[0.0, 1.0, 1.0, 1.0]]))
    # Scores 0 2 3 0, of which the last was removed before.
    assert statistics.prune(0.25, UNSTRUCTURED).tolist() == [[True, True, True, False]]
    assert statistics.prune(0.5, UNSTRUCTURED).tolist() == [[False, True, True, False]]
    assert statistics.weight.tolist() == [[0.0, 2.0, 3.0, 0.0]]


def test_rows_of_wanda_that_lost_more_than_their_share_leave_the_others_more() -> None:
    kept = torch.ones(4, 4, dtype=torch.bool)
    kept[0, :3] = False
    weight = torch.arange(1.0, 17.0).view(4, 4) * kept
    statistics = Wanda(weight, kept)
    statistics.add(torch.eye(4))
    keep = statistics.prune(0.5, UNSTRUCTURED)
    # Eight in all: three are gone, five are left for three rows.
    assert (~keep).sum(1).tolist() == [3, 1, 2, 2]
    assert keep[1].tolist() == [False, True, True, True]


def test_wanda_removes_blocks_beside_those_that_are_gone() -> None:
    kept = torch.ones(4, 4, dtype=torch.bool)
    kept[2:, 2:] = False
    weight = torch.tensor([[1.0, 1, 9, 9], [1, 1, 9, 9], [5, 5, 0, 0], [5, 5, 0, 0]])
    statistics = Wanda(weight, kept)
    statistics.add(torch.eye(4))
    keep = statistics.prune(0.5, Block(2, 2))
    assert keep[::2, ::2].tolist() == [[False, True], [True, False]] and int(keep.sum()) == 8


def test_sparse_gpt_does_not_bring_back_a_weight_that_could_make_up_for_another() -> None:
    """Input 2 repeats input 0; where weight 2 was removed before, nothing can take over weight 0."""
    inputs = noise(300, 4, seed=1)
    inputs[:, 2] = inputs[:, 0]
    dense, sparse = (
        SparseGpt(torch.tensor([[1.0, 2.0, third, 5.0]]), kept and torch.tensor([kept]))
        for third, kept in [(0.9, None), (0.0, [True, True, False, True])]
    )
    for statistics in (dense, sparse):
        statistics.add(inputs)
    dense.prune(0.25, UNSTRUCTURED)
    assert dense.weight[0].tolist() == pytest.approx([0.0, 2.0, 1.9, 5.0], abs=0.1)
    assert sparse.prune(0.5, UNSTRUCTURED).tolist() == [[False, True, False, True]]
    assert sparse.weight[0].tolist() == pytest.approx([0.0, 2.0, 0.0, 5.0], abs=0.3)
    assert sparse.weight[0, 2] == 0


def test_a_weight_that_is_gone_goes_first_whatever_earlier_bands_put_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SparseGpt, "BAND", 2)
    inputs = noise(300, 4, seed=1)
    inputs[:, 2] = inputs[:, 0]
    statistics = SparseGpt(torch.tensor([[1.0, 2.0, 0.0, 0.5]]), torch.tensor([[True, True, False, True]]))
    statistics.add(inputs)
    # Weight 2 takes over weight 0, and then is larger than weight 3.
    assert statistics.prune(0.5, UNSTRUCTURED).tolist() == [[False, True, False, True]]
    assert statistics.weight[0].tolist() == pytest.approx([0.0, 2.0, 0.0, 0.5], abs=0.3)


def surgeon(
    weight: np.ndarray, inputs: np.ndarray, kept: np.ndarray, gone: list[int], width: int, groups: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Remove weights column by column with an inverse made anew for each, in double precision.

    A band of so many columns loses as many weights as `gone` says of it, or two of every four.
    """
    weight, keep, columns = weight.copy(), kept.copy(), weight.shape[1]
    hessian = 2 * inputs.T @ inputs / len(inputs)
    hessian += 0.01 * hessian.diagonal().mean() * np.eye(columns)
    inverses = [np.linalg.inv(hessian[column:, column:]) for column in range(columns)]
    loss = np.array([inverse[0, 0] for inverse in inverses])
    for column in range(columns):
        if groups and column % 4 == 0:
            part = slice(column, column + 4)
            scores = np.where(keep[:, part], weight[:, part] ** 2 / loss[part], -np.inf)
            keep[:, part] = scores.argsort(1).argsort(1) >= 2
        elif not groups and column % width == 0:
            part = slice(column, column + width)
            scores = np.where(keep[:, part], weight[:, part] ** 2 / loss[part], -np.inf)
            ranks = scores.flatten().argsort().argsort()
            keep[:, part] = (ranks >= gone[column // width]).reshape(scores.shape)
        error = np.where(keep[:, column], 0, weight[:, column]) / loss[column]
        weight[:, column:] -= np.outer(error, inverses[column][0])
        weight[~keep[:, column], column] = 0
    return weight, keep


@pytest.mark.parametrize("standing", [False, True])
@pytest.mark.parametrize("block", [UNSTRUCTURED, TWO_OF_FOUR], ids=str)
def test_sparse_gpt_is_the_surgeon_column_by_column(
    standing: bool, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SparseGpt, "BAND", 8)
    kept = tenth_gone() if standing else torch.ones(24, 32, dtype=torch.bool)
    original = noise(24, 32)
    if block is TWO_OF_FOUR:
        # No group may have lost three.
        kept[:, ::2] = True
    weight, keep = pruned("sparse_gpt", original, kept, 0.5, block)
    wanted, chosen = surgeon(
        (original * kept).double().numpy(),
        inputs_alike().double().numpy(),
        kept.numpy(),
        [24 * 8 // 2] * 4,
        8,
        block is TWO_OF_FOUR,
    )
    assert torch.equal(keep, torch.from_numpy(chosen))
    torch.testing.assert_close(weight.double(), torch.from_numpy(wanted), rtol=1e-3, atol=1e-3)


def test_bands_of_sparse_gpt_that_lost_more_than_their_share_leave_the_others_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SparseGpt, "BAND", 8)
    kept = torch.ones(24, 32, dtype=torch.bool)
    kept[:, 8:16] = False
    _, keep = pruned("sparse_gpt", noise(24, 32), kept, 0.5)
    # Half of 768, of which 192 are gone; 192 are left for three bands.
    assert [int((~keep[:, first : first + 8]).sum()) for first in range(0, 32, 8)] == [64, 192, 64, 64]


@pytest.mark.parametrize("method", DATA_METHODS)
@pytest.mark.parametrize("sparsity", [0.25, 0.3, 0.6, 0.95])
def test_what_is_gone_stays_and_counts(method: str, sparsity: float) -> None:
    kept = tenth_gone()
    kept[3, :20] = False
    weight, keep = pruned(method, noise(24, 32), kept, sparsity)
    assert int((~keep).sum()) == int(sparsity * 24 * 32)
    assert not (keep & ~kept).any() and not weight[~keep].any() and (weight[keep] != 0).all()


@pytest.mark.parametrize("method", DATA_METHODS)
@pytest.mark.parametrize("block", [UNSTRUCTURED, TWO_OF_FOUR], ids=str)
def test_the_same_share_again_changes_nothing(method: str, block: Block) -> None:
    weight, keep = pruned(method, noise(24, 32), torch.ones(24, 32, dtype=torch.bool), 0.5, block)
    again, mask = pruned(method, weight, keep, 0.5, block)
    assert torch.equal(mask, keep) and torch.equal(again, weight)


@pytest.mark.parametrize("method", DATA_METHODS)
def test_two_of_four_take_one_more_where_one_is_gone(method: str) -> None:
    kept = torch.ones(24, 32, dtype=torch.bool)
    kept[:, 1::4] = False
    weight, keep = pruned(method, noise(24, 32), kept, 0.5, TWO_OF_FOUR)
    assert (keep.view(-1, 4).sum(1) == 2).all() and not keep[:, 1::4].any() and not weight[~keep].any()
