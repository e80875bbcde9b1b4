"""Whether a run may go on from a checkpoint."""

from pathlib import Path

import pytest
import torch

from hf_sparse.checkpoint.sidecar import SIDECAR, SavedState, write_state
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.training.checkpoints.resume import check_length, check_step, read_resumable

RECIPE = Recipe.preset("prune_ofa_90").override(["sparsity.revive=false"])
WAY_OUT = (
    "resume with the recipe and length of the run that wrote the checkpoint, or pass allow_schedule_change"
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path / "checkpoint-5", RECIPE)


def write(directory: Path, recipe: Recipe) -> Path:
    write_state(directory, SavedState(recipe, 5, 100, {"a.weight": torch.tensor([7], dtype=torch.uint8)}))
    return directory


def refusal(checkpoint: Path, recipe: Recipe, allow: bool = False) -> str:
    with pytest.raises(ValueError, match="was written under another recipe") as caught:
        read_resumable(checkpoint, recipe, allow)
    assert str(checkpoint) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("allow", [False, True])
def test_the_same_recipe_goes_on(checkpoint: Path, allow: bool) -> None:
    saved = read_resumable(str(checkpoint), Recipe.from_dict(RECIPE.to_dict()), allow)
    assert (saved.recipe, saved.step, saved.total_steps) == (RECIPE, 5, 100)
    assert saved.masks["a.weight"].tolist() == [7]


def test_defaults_written_out_are_no_difference(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, Recipe.from_dict({"sparsity": {"schedule": {"final": 0.5}}}))
    longer = {
        "method": "magnitude",
        "include": [],
        "schedule": {"final": 0.5, "shape": "cubic", "every": "1%"},
    }
    assert read_resumable(checkpoint, Recipe.from_dict({"sparsity": longer}), False) is not None


def test_an_empty_recipe_needs_no_sidecar(tmp_path: Path) -> None:
    assert read_resumable(tmp_path, Recipe(), False) is None


@pytest.mark.parametrize("allow", [False, True])
def test_any_other_recipe_needs_one(tmp_path: Path, allow: bool) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist, .*start a new run from that model"):
        read_resumable(tmp_path, RECIPE, allow)


@pytest.mark.parametrize("recipe", [RECIPE, Recipe()])
@pytest.mark.parametrize("allow", [False, True])
def test_a_damaged_sidecar_is_refused(checkpoint: Path, recipe: Recipe, allow: bool) -> None:
    content = (checkpoint / SIDECAR).read_bytes()
    (checkpoint / SIDECAR).write_bytes(content[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        read_resumable(checkpoint, recipe, allow)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("sparsity.schedule.final=0.85", "sparsity.schedule.final was 0.9, is 0.85"),
        ("sparsity.schedule.ramp_end=40", "sparsity.schedule.ramp_end was '50%', is 40"),
        ("sparsity.schedule.update_end=null", "sparsity.schedule.update_end was '80%', is unset"),
        ("sparsity.schedule.shape=linear", "sparsity.schedule.shape was 'cubic', is 'linear'"),
        ("sparsity.allocation=global", "sparsity.allocation was 'uniform', is 'global'"),
        ("sparsity.lr_rewind=false", "sparsity.lr_rewind was True, is False"),
        ("distillation.temperature=1.0", "distillation.temperature was 2.0, is 1.0"),
        ("distillation=null", "distillation was set, is unset"),
    ],
)
def test_a_changed_schedule_or_loss_has_to_be_allowed(checkpoint: Path, change: str, difference: str) -> None:
    changed = RECIPE.override([change])
    assert f"({difference}); {WAY_OUT}" in refusal(checkpoint, changed)
    assert read_resumable(checkpoint, changed, True).recipe == RECIPE


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("sparsity.pattern=1x4", "sparsity.pattern was 'unstructured', is '1x4'"),
        ("sparsity.include=[query]", "sparsity.include was [], is ['query']"),
        ("sparsity.exclude=[query, key]", "sparsity.exclude was [], is ['query', 'key']"),
        ("sparsity=null", "sparsity was set, is unset"),
        ("sparsity={method: lock}", "sparsity.method was 'magnitude', is 'lock'"),
    ],
)
def test_what_gives_the_masks_their_meaning_never_changes(
    checkpoint: Path, change: str, difference: str
) -> None:
    for allow in (False, True):
        message = refusal(checkpoint, RECIPE.override([change]), allow)
        assert message.endswith(
            f"({difference}); these never change within a run: "
            "resume with the checkpoint's own, or start a new run"
        )


def test_sparsity_is_not_added_to_a_run_without_masks(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, RECIPE.override(["sparsity=null"]))
    assert "sparsity was unset, is set" in refusal(checkpoint, RECIPE, allow=True)


def test_an_empty_recipe_is_another_one_where_there_is_a_sidecar(checkpoint: Path) -> None:
    assert "(sparsity was set, is unset)" in refusal(checkpoint, Recipe())


def test_what_can_never_change_is_named_before_what_could_be_allowed(checkpoint: Path) -> None:
    changes = ["sparsity.schedule.final=0.8", "sparsity.pattern=4x1", "sparsity.include=[key]"]
    differences = "sparsity.pattern was 'unstructured', is '4x1'; sparsity.include was [], is ['key']"
    assert f"({differences}); these never change" in refusal(checkpoint, RECIPE.override(changes))


def test_differences_that_can_be_allowed_are_named_together(checkpoint: Path) -> None:
    changed = RECIPE.override(["sparsity.schedule.final=0.8", "distillation.task=1.0"])
    differences = "sparsity.schedule.final was 0.9, is 0.8; distillation.task was 0.5, is 1.0"
    assert f"({differences}); {WAY_OUT}" in refusal(checkpoint, changed)


def test_another_length_has_to_be_allowed() -> None:
    saved = SavedState(RECIPE, 5, 100, {})
    assert check_length(saved, 100, False) is None
    assert check_length(saved, 200, True) is None
    with pytest.raises(
        ValueError, match="run of 100 steps, this run has 200, which would move its"
    ) as caught:
        check_length(saved, 200, False)
    assert str(caught.value).endswith(WAY_OUT)


def test_masks_of_another_step_are_refused(checkpoint: Path) -> None:
    saved = read_resumable(checkpoint, RECIPE, False)
    check_step(saved, 5)
    with pytest.raises(ValueError, match="sidecar is that of step 5, and the checkpoint is one of step 6"):
        check_step(saved, 6)
