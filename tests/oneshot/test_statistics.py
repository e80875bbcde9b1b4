"""The weights that Wanda and SparseGPT remove, and the error of the outputs."""

import pytest
import torch

from hf_sparse.oneshot.prune_with_data import DATA_METHODS
from hf_sparse.oneshot.sparsegpt import SparseGpt
from hf_sparse.oneshot.wanda import Wanda
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block
from hf_sparse.sparsity.patterns.n_of_m import NOfM
from tests.oneshot.numbers import inputs_alike, noise

TWO_OF_FOUR = NOfM(kept=2, group=4)


def pruned(method: str, sparsity: float, block: Block) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return weight, mask and the error of the outputs, relative to the outputs."""
    original, inputs = noise(24, 32), inputs_alike()
    statistics = DATA_METHODS[method](original.clone())
    for part in inputs.split(100):
        statistics.add(part)
    keep = statistics.prune(sparsity, block)
    weight = statistics.weight
    error = (inputs @ (weight - original).t()).norm() / (inputs @ original.t()).norm()
    return weight, keep, error.item()


def test_wanda_removes_the_least_of_weight_times_norm_in_every_row() -> None:
    weight, inputs = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]), torch.eye(4)
    inputs = inputs * torch.tensor([10.0, 1.0, 1.0, 0.1])
    statistics = Wanda(weight)
    statistics.add(inputs)
    keep = statistics.prune(0.5, UNSTRUCTURED)
    # Scores 10 2 3 .4 and 40 3 2 .1.
    assert keep.tolist() == [[True, False, True, False], [True, True, False, False]]
    assert weight.tolist() == [[1.0, 0.0, 3.0, 0.0], [4.0, 3.0, 0.0, 0.0]]


@pytest.mark.parametrize("method", DATA_METHODS)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
def test_the_count_is_exact(method: str, sparsity: float) -> None:
    weight, keep, _ = pruned(method, sparsity, UNSTRUCTURED)
    assert int((~keep).sum()) == int(sparsity * 24 * 32) and not weight[~keep].any()
    assert (weight[keep] != 0).all()


def test_wanda_takes_the_same_share_of_every_row() -> None:
    _, keep, _ = pruned("wanda", 0.3, UNSTRUCTURED)
    # 230 of 768 weights, of 24 rows.
    assert sorted((~keep).sum(1).tolist()) == [9] * 10 + [10] * 14


@pytest.mark.parametrize("method", DATA_METHODS)
@pytest.mark.parametrize("block", [TWO_OF_FOUR, NOfM(kept=1, group=8)], ids=str)
def test_every_group_keeps_its_number(method: str, block: NOfM) -> None:
    weight, keep, _ = pruned(method, block.share, block)
    assert (keep.view(-1, block.group).sum(1) == block.kept).all() and not weight[~keep].any()


def test_blocks_go_whole() -> None:
    weight, keep, _ = pruned("wanda", 0.5, Block(4, 4))
    tiles = keep.view(6, 4, 8, 4).sum((1, 3))
    assert set(tiles.unique().tolist()) == {0, 16} and int((tiles == 0).sum()) == 24


@pytest.mark.parametrize("block", [UNSTRUCTURED, TWO_OF_FOUR], ids=str)
def test_outputs_miss_less_than_by_magnitude_and_least_where_others_make_up_for_it(block: Block) -> None:
    original, inputs = noise(24, 32), inputs_alike()
    scores = original.abs()
    if block is TWO_OF_FOUR:
        keep = torch.zeros(24 * 8, 4, dtype=torch.bool)
        keep.scatter_(1, scores.view(-1, 4).topk(2).indices, True)
        keep = keep.view(24, 32)
    else:
        keep = scores > scores.flatten().kthvalue(24 * 16).values
    by_magnitude = ((inputs @ (original * ~keep).t()).norm() / (inputs @ original.t()).norm()).item()
    wanda, sparse_gpt = (pruned(method, 0.5, block)[2] for method in ("wanda", "sparse_gpt"))
    assert sparse_gpt < 0.95 * wanda < 0.95 * by_magnitude


def test_sparse_gpt_is_exact_where_an_input_repeats_another() -> None:
    """What one of two equal inputs carried, the other can carry."""
    inputs = noise(300, 8, seed=1).repeat_interleave(2, 1)
    original = noise(6, 16)
    statistics = SparseGpt(original.clone())
    statistics.add(inputs)
    statistics.prune(0.5, NOfM(kept=1, group=2))
    error = (inputs @ (statistics.weight - original).t()).norm() / (inputs @ original.t()).norm()
    assert error < 0.02


def test_inputs_that_are_always_zero_lose_their_weights() -> None:
    inputs = noise(300, 16, seed=1)
    inputs[:, 5] = 0
    statistics = SparseGpt(noise(6, 16))
    statistics.add(inputs)
    statistics.prune(0.5, UNSTRUCTURED)
    assert not statistics.weight[:, 5].any() and torch.isfinite(statistics.weight).all()


def test_inputs_that_are_not_finite_are_named() -> None:
    statistics = SparseGpt(noise(6, 16))
    statistics.add(torch.full((4, 16), float("nan")))
    with pytest.raises(ValueError, match="too similar to rank its weights, or are not finite"):
        statistics.prune(0.5, UNSTRUCTURED)


def test_bands_narrower_than_the_weight_agree_with_one() -> None:
    wide = pruned("sparse_gpt", 0.5, TWO_OF_FOUR)
    band, SparseGpt.BAND = SparseGpt.BAND, 8
    try:
        narrow = pruned("sparse_gpt", 0.5, TWO_OF_FOUR)
    finally:
        SparseGpt.BAND = band
    assert torch.equal(wide[1], narrow[1])
    torch.testing.assert_close(wide[0], narrow[0], rtol=1e-3, atol=1e-4)
