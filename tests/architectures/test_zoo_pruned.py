"""Every architecture is pruned as far as was asked, saved, and loaded by its stock class with its zeros."""

import math
from collections.abc import Callable

import pytest
import torch

from hf_sparse import find_targets, measure_sparsity
from hf_sparse.checkpoint.sidecar import SIDECAR, read_state
from tests.support.tiny import same_weights
from tests.support.zoo import ARCHITECTURES
from tests.support.zoo_runs import STEPS, Run, logits

NAMES = [entry.name for entry in ARCHITECTURES]
Trained = Callable[[str, str, float], Run]


@pytest.fixture(params=NAMES)
def run(request: pytest.FixtureRequest, trained: Trained) -> Run:
    return trained(request.param, "unstructured", 0.8)


def test_exactly_the_share_asked_for_is_zero_in_every_weight(run: Run) -> None:
    zeros = {target.name: int((target.weight == 0).sum()) for target in run.targets}
    assert zeros == {target.name: math.floor(0.8 * target.weight.numel()) for target in run.targets}


def test_nothing_but_the_targets_is_pruned(run: Run) -> None:
    before = dict(run.architecture.model().named_parameters())
    pruned = {id(target.parameter) for target in run.targets}
    for name, parameter in run.model.named_parameters():
        if id(parameter) not in pruned:
            assert not ((parameter == 0) & (before[name] != 0)).any(), name


def test_gradients_weights_and_optimizer_state_of_removed_weights_are_zero_at_every_step(run: Run) -> None:
    assert run.watch.gradients == run.watch.weights == run.watch.optimizer == [0] * STEPS


def test_the_stock_class_loads_the_same_model_with_zeros_in_the_same_places(run: Run) -> None:
    loaded = run.loaded()
    masks = run.trainer.sparsifier.masks
    targets = find_targets(loaded)
    assert targets.names == masks.targets.names
    for target in targets:
        assert torch.equal(target.weight != 0, masks[target.name]), target.name
    assert same_weights(run.model, loaded)
    assert torch.equal(logits(loaded, run.architecture), logits(run.model, run.architecture))


def test_the_sidecar_holds_a_mask_for_every_target(run: Run) -> None:
    assert (run.folder / SIDECAR).is_file()
    assert sorted(read_state(run.folder).masks) == sorted(target.name for target in run.targets)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_lie_in_the_matrix_of_outputs_by_inputs(name: str, trained: Trained) -> None:
    """Blocks of 4 outputs x 8 inputs: square ones would look the same in a transposed matrix."""
    run = trained(name, "4x8", 0.5)
    for target in run.targets:
        rows, columns = target.weight.shape
        blocks = target.weight.detach().reshape(rows // 4, 4, columns // 8, 8).permute(0, 2, 1, 3).flatten(2)
        empty = (blocks == 0).all(-1)
        assert torch.equal(empty, (blocks == 0).any(-1)), target.name
        assert int(empty.sum()) == rows * columns // 32 // 2
    assert measure_sparsity(run.loaded()).overall == 0.5
