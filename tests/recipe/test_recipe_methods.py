"""Settings of pruning methods in a recipe: the methods bring their own, those of users included."""

from collections.abc import Iterator

import pytest

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.fields import Factor
from hf_sparse.recipe.sparsity import method_settings
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.methods.group_lasso import GroupLassoRecipe, GroupLassoRun
from hf_sparse.sparsity.methods.magnitude import absolute
from hf_sparse.sparsity.methods.method import Method, settings_as
from hf_sparse.sparsity.methods.movement import MovementRecipe, ScoresRecipe
from tests.support.tiny import arguments, bert, sentences


class OwnRecipe(GroupLassoRecipe):
    """The same as for group Lasso, and one more."""

    warmth: Factor = 1.0


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    METHODS["own"] = Method(score=absolute, settings=OwnRecipe, start=GroupLassoRun)
    yield
    del METHODS["own"]


def recipe(**changes: object) -> Recipe:
    return Recipe.from_dict({"sparsity": {"method": "own", "schedule": {"final": 0.5}} | changes})


def test_methods_that_share_settings_share_the_key_of_the_first() -> None:
    assert method_settings() == {
        "movement": ("movement", "soft_movement"),
        "group_lasso": ("group_lasso",),
        "own": ("own",),
    }


def test_settings_are_read_written_and_default() -> None:
    given = recipe(own={"warmth": 2.0})
    assert given.sparsity.own_settings == given.sparsity.own == OwnRecipe(warmth=2.0)
    assert given.to_dict()["sparsity"]["own"] == {"warmth": 2.0}
    assert Recipe.from_dict(given.to_dict()) == given and given.digest() != recipe().digest()
    assert recipe().sparsity.own is None and recipe().sparsity.own_settings == OwnRecipe()
    assert given.override(["sparsity.own=null"]) == recipe(own=None) == recipe()
    assert Recipe.preset("gmp_finetune").sparsity.own_settings is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"own": {"warmht": 1.0}}, "sparsity.own.warmht is not a recipe key; did you mean warmth?"),
        ({"own": {"warmth": 0}}, "sparsity.own.warmth is 0: input should be greater than 0"),
        ({"owm": {}}, "sparsity.owm is not a recipe key; did you mean own?"),
        ({"method": "magnitude", "own": {}}, "own does not apply to method magnitude; leave it out"),
        ({"revive": True}, "revive applies to magnitude only"),
    ],
)
def test_mistakes_in_them_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        recipe(**changes)


def test_mistakes_in_them_and_beside_them_are_named_together() -> None:
    with pytest.raises(ValueError, match="sparsity.floor is 2.*; sparsity.own.warmth is 0"):
        recipe(floor=2, own={"warmth": 0})


def test_a_run_needs_the_settings_that_its_method_names() -> None:
    assert settings_as(GroupLassoRecipe, OwnRecipe(spare=False)).spare is False
    assert settings_as(GroupLassoRecipe, None) == GroupLassoRecipe()
    with pytest.raises(TypeError, match="are a MovementRecipe, and its run needs a GroupLassoRecipe; give"):
        settings_as(GroupLassoRecipe, MovementRecipe())


def test_a_method_with_settings_has_no_name_of_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "floor", Method(score=absolute, settings=ScoresRecipe))
    with pytest.raises(ValueError, match="method floor has settings, and sparsity.floor is something else"):
        recipe()


def test_a_resumed_run_keeps_them_whatever_else_may_change(tmp_path) -> None:
    saving = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    own, schedule = {"warmth": 2.0}, {"shape": "one_shot", "final": 0.5, "begin": 3}
    first = recipe(own=own, pattern="4x4", schedule=schedule)
    rows = sentences()
    SparseTrainer(bert(), arguments(tmp_path, **saving), train_dataset=rows, recipe=first).train()
    changed = first.override(["sparsity.own.warmth=3.0"])
    again = SparseTrainer(
        bert(),
        arguments(tmp_path / "again", **saving),
        train_dataset=rows,
        recipe=changed,
        allow_schedule_change=True,
    )
    with pytest.raises(ValueError, match="sparsity.own.warmth was 2.0, is 3.0"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
