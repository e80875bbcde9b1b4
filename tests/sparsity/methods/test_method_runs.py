"""What methods do during a run: what the base class leaves to the schedule, what a method must bring."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.methods.magnitude import absolute
from hf_sparse.sparsity.methods.method import Method, MethodRun, PruningRun
from hf_sparse.sparsity.methods.movement import MovementRun, MovementScores
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block
from hf_sparse.sparsity.patterns.n_of_m import NOfM
from hf_sparse.sparsity.patterns.pattern import Pattern
from hf_sparse.sparsity.schedules import Schedule
from hf_sparse.targets import find_targets
from tests.support.tiny import bert


def run_of(pattern: Pattern = UNSTRUCTURED, **parts: object) -> PruningRun:
    targets = find_targets(bert())
    schedule = Schedule("linear", 0.0, 0.5, begin=0, ramp_end=10, update_end=10, every=1, total_steps=20)
    return PruningRun(targets, Layout(targets, pattern), schedule, **parts)


def test_a_score_alone_follows_the_schedule_and_holds_nothing() -> None:
    run = METHODS["magnitude"].start(run_of(score=absolute))
    assert run.scores() is absolute
    sizes = [target.weight.numel() for target in run.run.targets]
    assert [budget.removed for budget in run.budgets(5)] == [size // 4 for size in sizes]
    assert [budget.removed for budget in run.run.final_budgets] == [size // 2 for size in sizes]
    assert run.run.asked == 0.5
    assert (run.gradients(0, 1.0, None), run.state(), run.logs()) == (0.0, {}, {})
    run.load_state({"other": {}}, 5)


def test_without_a_score_there_is_nothing_to_rank_by() -> None:
    with pytest.raises(NotImplementedError, match="MethodRun has a method without a score; override scores"):
        MethodRun(run_of()).scores()


def test_a_movement_run_needs_its_scores() -> None:
    with pytest.raises(
        TypeError, match="ranks MovementScores, got None; give the method learn=MovementScores"
    ):
        MovementRun(run_of()).scores()


@pytest.mark.parametrize(
    ("method", "learned", "needs_training", "scheduled"),
    [
        (Method(), False, False, False),
        (Method(score=absolute), False, False, True),
        (Method(start=MovementRun), False, True, True),
        (Method(start=MovementRun, learn=MovementScores), True, True, True),
    ],
)
def test_what_a_method_is_follows_from_what_it_has(
    method: Method, learned: bool, needs_training: bool, scheduled: bool
) -> None:
    assert (method.learned, method.needs_training, method.scheduled) == (learned, needs_training, scheduled)


def test_patterns_say_what_they_keep_at_any_sparsity() -> None:
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    kept = [[True, False, True, False], [False, False, True, True]]
    pattern = NOfM(kept=2, group=4)
    assert pattern.keeps(scores).tolist() == kept
    assert pattern.protect(scores).isinf().tolist() == kept
    assert not Block(2, 2).keeps(scores).any() and Block(2, 2).protect(scores) is scores
    assert (pattern.group, Block(1, 4).group) == (4, 1)
    pattern.check_kept("a", torch.tensor(kept))
    Block(1, 4).check_kept("a", torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="1 groups of a have fewer weights left than the 2 of 4"):
        pattern.check_kept("a", torch.tensor([[True, False, False, False], kept[0]]))


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"learned": True}, "movement"),
        ({"learned": True, "penalized": True}, "soft_movement"),
        ({"score": absolute, "penalized": True}, "group_lasso"),
    ],
)
def test_former_flags_stand_for_a_method_and_warn(flags: dict[str, Any], name: str) -> None:
    with pytest.warns(FutureWarning, match="is given by start and learn now"):
        method = Method(**flags)
    like = METHODS[name]
    assert (method.start, method.learn, method.settings) == (like.start, like.learn, like.settings)
    assert (method.learned, method.penalized) == (like.learned, True)
    assert replace(method, score=None).start is like.start
