"""Every method with every kind of pattern: the target is reached exactly, or refused with a reason."""

import pytest

from hf_sparse import Recipe, SparseTrainer, find_targets, prune
from hf_sparse.sparsity.inspection import inspect_weights
from hf_sparse.sparsity.methods import METHODS
from tests.support.tiny import arguments, bert, sentences

PATTERNS = ["unstructured", "1x4", "4x1", "4x4", "16x4", "row", "column", "row/4", "column/4", "1:2", "2:4"]
REFUSED = {("group_lasso", "1:2"), ("group_lasso", "2:4")}


def recipe(method: str, pattern: str) -> Recipe:
    schedule = {"shape": "one_shot", "final": 0.5, "begin": 4}
    if method in ("movement", "soft_movement"):
        schedule = {"shape": "linear", "final": 0.5, "begin": 2, "ramp_end": 8, "update_end": 8, "every": 1}
    return Recipe.from_dict(
        {"sparsity": {"method": method, "pattern": pattern, "schedule": schedule, "lr_rewind": False}}
    )


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"lock"}))
def test_half_of_every_weight_is_gone_in_the_pattern(tmp_path, method: str, pattern: str) -> None:
    if (method, pattern) in REFUSED:
        with pytest.raises(ValueError, match="makes whole groups small, and pattern"):
            recipe(method, pattern)
        return
    args = arguments(tmp_path, max_steps=12)
    run = SparseTrainer(bert(), args, train_dataset=sentences(), recipe=recipe(method, pattern))
    run.train()
    for weight in inspect_weights(find_targets(run.model), [pattern]):
        assert (weight.sparsity, weight.pattern) == (0.5, pattern)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_lock_keeps_any_pattern_and_takes_none(tmp_path, pattern: str) -> None:
    model = bert()
    prune(model, 0.5, pattern=pattern)
    with pytest.raises(ValueError, match="so pattern would be ignored"):
        Recipe.from_dict({"sparsity": {"method": "lock", "pattern": pattern}})
    locked = Recipe.from_dict({"sparsity": {"method": "lock"}})
    run = SparseTrainer(model, arguments(tmp_path, max_steps=3), train_dataset=sentences(), recipe=locked)
    run.train()
    for weight in inspect_weights(find_targets(run.model), [pattern]):
        assert (weight.sparsity, weight.pattern) == (0.5, pattern)
