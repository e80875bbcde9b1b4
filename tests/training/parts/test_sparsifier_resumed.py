"""Sparsity that goes on from a checkpoint."""

import pytest
import torch
from torch import nn

from hf_sparse.checkpoint.sidecar import SavedState
from hf_sparse.recipe.sparsity import SparsityRecipe
from hf_sparse.training.parts.sparsifier import Sparsifier

FIRST, SECOND = "layers.0.weight", "layers.1.weight"


def gradual(final: float = 0.9) -> SparsityRecipe:
    schedule = {"final": final, "ramp_end": 4, "update_end": 6, "every": 2}
    return SparsityRecipe.model_validate({"schedule": schedule})


def stack() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(16, 8), nn.Linear(8, 16)])
    return model


def saved_from(sparsifier: Sparsifier, step: int) -> SavedState:
    return SavedState(recipe=None, step=step, total_steps=10, masks=sparsifier.masks.pack())


def test_a_resumed_run_has_the_masks_of_the_checkpoint() -> None:
    model = stack()
    first = Sparsifier(gradual(), model, total_steps=10)
    first.update(2, None)
    # Trained to zero without being removed: not part of the mask.
    kept = first.masks[FIRST].nonzero()[0]
    model.layers[0].weight.data[*kept] = 0
    second = Sparsifier(gradual(), model, total_steps=10, saved=saved_from(first, 2))
    assert torch.equal(second.masks[FIRST], first.masks[FIRST])
    assert torch.equal(second.masks[SECOND], first.masks[SECOND])


def test_a_resumed_run_grows_to_the_same_masks() -> None:
    model = stack()
    first = Sparsifier(gradual(), model, total_steps=10)
    first.update(2, None)
    second = Sparsifier(gradual(), model, total_steps=10, saved=saved_from(first, 2))
    first.update(4, None)
    second.update(4, None)
    assert torch.equal(second.masks[FIRST], first.masks[FIRST])
    second.verify(4)


def test_a_resumed_run_may_be_dense_still() -> None:
    model = stack()
    saved = saved_from(Sparsifier(gradual(), model, total_steps=10), 1)
    assert Sparsifier(gradual(), model, total_steps=10, saved=saved).masks.sparsity == 0


def test_masks_of_other_weights_are_refused_on_resume() -> None:
    model = stack()
    saved = saved_from(Sparsifier(gradual(), model, total_steps=10), 1)
    with pytest.raises(ValueError, match="stored masks and the model's targets differ in 1 names"):
        Sparsifier(gradual().model_copy(update={"exclude": ("0",)}), model, total_steps=10, saved=saved)


def test_weights_that_do_not_belong_to_the_masks_are_refused_on_resume() -> None:
    model = stack()
    sparsifier = Sparsifier(gradual(), model, total_steps=10)
    sparsifier.update(4, None)
    with pytest.raises(
        RuntimeError, match="115 removed weights of layers.0.weight .* different steps; resume"
    ):
        Sparsifier(gradual(), stack(), total_steps=10, saved=saved_from(sparsifier, 4))


def test_resuming_never_lowers_sparsity() -> None:
    model = stack()
    sparsifier = Sparsifier(gradual(), model, total_steps=10)
    sparsifier.update(4, None)
    with pytest.raises(ValueError, match="115 weights of layers.0.weight are zero already, more than the 64"):
        Sparsifier(gradual(0.5), model, total_steps=10, saved=saved_from(sparsifier, 4))
