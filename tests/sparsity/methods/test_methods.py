"""What the pruning methods score."""

import numpy as np
import pytest
import torch

from hf_sparse.sparsity.methods import METHODS

WEIGHTS = [[-2.0, 0.5], [0.0, -0.0]]
SCORED = [name for name, method in METHODS.items() if method.score is not None]


def test_the_methods_a_recipe_can_name() -> None:
    assert set(METHODS) == {"magnitude", "movement", "soft_movement", "group_lasso", "lock"}


def test_magnitude_scores_by_absolute_value() -> None:
    score = METHODS["magnitude"].score
    assert score(torch.tensor(WEIGHTS)).tolist() == [[2.0, 0.5], [0.0, 0.0]]
    assert score(np.array(WEIGHTS)).tolist() == [[2.0, 0.5], [0.0, 0.0]]


def test_groups_are_scored_by_their_squared_norm() -> None:
    score = METHODS["group_lasso"].score
    assert score(torch.tensor(WEIGHTS)).tolist() == [[4.0, 0.25], [0.0, 0.0]]
    assert score(np.array(WEIGHTS)).tolist() == [[4.0, 0.25], [0.0, 0.0]]


def test_lock_has_nothing_to_score() -> None:
    assert not METHODS["lock"].scheduled


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_as_many_and_of_the_same_type_as_the_weights(name: str, dtype: torch.dtype) -> None:
    weights = torch.tensor(WEIGHTS, dtype=dtype)
    scores = METHODS[name].score(weights)
    assert (scores.shape, scores.dtype) == (weights.shape, dtype)
    assert weights.tolist() == WEIGHTS


@pytest.mark.parametrize("name", SCORED)
def test_scores_go_where_they_are_told(name: str) -> None:
    weights, out = np.array(WEIGHTS), np.empty((2, 2))
    assert METHODS[name].score(weights, out=out) is out
    assert out.tolist() == METHODS[name].score(weights).tolist()
