"""Learned scores: the straight-through gradient, on removed weights too; the pull towards a threshold."""

import pytest
import torch
from torch import nn

from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.methods.movement import MovementScores, ScorePenalty
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block
from hf_sparse.sparsity.patterns.n_of_m import NOfM
from hf_sparse.sparsity.revival import RememberedWeights
from hf_sparse.targets import Targets, find_targets
from tests.support.tiny import bert


class _StraightThrough(torch.autograd.Function):
    """The mask that scores above the median make, with the gradient of the identity (Sanh et al. 2020)."""

    @staticmethod
    def forward(ctx, scores: torch.Tensor) -> torch.Tensor:
        return (scores > scores.median()).float()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def scores_of(block: Block) -> tuple[nn.Module, Targets, MovementScores]:
    model = bert()
    targets = find_targets(model)
    return model, targets, MovementScores(targets, dict.fromkeys(targets.names, block))


@pytest.mark.parametrize("block", [UNSTRUCTURED, Block(4, 4), Block(1, 8)], ids=str)
def test_gradients_are_those_of_the_paper_on_removed_weights_too(block: Block) -> None:
    model, targets, scores = scores_of(block)
    target, inputs = targets.found[0], torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    whole = target.weight.detach().clone()
    learned = torch.randn(32 // block.rows, 32 // block.columns, requires_grad=True)
    mask = block.expand(_StraightThrough.apply(learned))
    (inputs @ (whole * mask).t()).square().sum().backward()
    # Ours: the removed weights are zeros of the model and lie aside.
    masks = Masks(targets)
    masks.set(target.name, mask.detach() > 0)
    remembered = RememberedWeights(masks)
    remembered.withdraw()
    (inputs @ target.weight.t()).square().sum().backward()
    scores.set_gradients(remembered.whole)
    gradient = scores.parameters()[0].grad
    torch.testing.assert_close(gradient, learned.grad, rtol=1e-4, atol=1e-4)
    removed = learned.detach() <= learned.detach().median()
    assert (gradient[removed] != 0).float().mean() > 0.5
    assert not masks.nonzero_removed()


def test_scores_without_gradients_of_weights_have_none() -> None:
    _, targets, scores = scores_of(UNSTRUCTURED)
    scores.set_gradients(lambda target: target.weight.detach())
    assert all(score.grad is None for score in scores.parameters())


def test_what_is_ranked_are_scores_of_blocks_or_what_a_pattern_lets_go() -> None:
    _, targets, scores = scores_of(Block(4, 4))
    assert {values.shape for values in scores.ranked().values()} == {(8, 8), (16, 8), (8, 16)}
    _, targets, scores = scores_of(NOfM(kept=2, group=4))
    ranked = scores.ranked()[targets.names[0]]
    assert ranked.shape == (32, 32) and int(ranked.isinf().sum()) == 512


def test_a_state_is_taken_up_and_another_refused() -> None:
    _, _, scores = scores_of(Block(4, 4))
    for score in scores.parameters():
        score.data.normal_()
    _, targets, other = scores_of(Block(4, 4))
    other.load_state(scores.state())
    assert all(torch.equal(scores[name], other[name]) for name in targets.names)
    with pytest.raises(ValueError, match="movement scores of .* are not those of this recipe and model"):
        scores_of(Block(2, 2))[2].load_state(scores.state())


def test_the_penalty_is_the_mean_of_the_sigmoids_and_so_is_its_gradient() -> None:
    _, _, scores = scores_of(Block(4, 4))
    for score in scores.parameters():
        score.data.normal_()
    copies = [score.detach().clone().requires_grad_() for score in scores.parameters()]
    expected = 3.0 * torch.cat([torch.sigmoid(copy).flatten() for copy in copies]).mean()
    expected.backward()
    for score in scores.parameters():
        score.grad = torch.ones_like(score)
    penalty = ScorePenalty(scores, strength=3.0, threshold=0.1)
    assert penalty.add_gradients(scale=2.0) == pytest.approx(expected.item(), rel=1e-5)
    for score, copy in zip(scores.parameters(), copies, strict=True):
        torch.testing.assert_close(score.grad, 1 + 2 * copy.grad)


def test_scores_below_the_threshold_are_gone() -> None:
    _, targets, scores = scores_of(Block(4, 4))
    penalty = ScorePenalty(scores, strength=1.0, threshold=0.1)
    assert penalty.measure(0, 0.5).gone == 0.0 and penalty.history[0].level == pytest.approx(5.0)
    for score in scores.parameters():
        score.data[: len(score) // 2] = -3.0
    assert penalty.measure(1, 0.5).gone == 0.5 and penalty.history[1].level < 1
    assert penalty.below(1.0) == {name: scores[name].numel() // 2 for name in targets.names}
    assert set(penalty.below(0.1).values()) == {0}
