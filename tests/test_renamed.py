"""Old keywords of functions keep working and name the new ones."""

import importlib
import inspect
import warnings
from pathlib import Path

import pytest

from hf_sparse.hub import write_card
from hf_sparse.renamed import renamed_keywords, warn_renamed


@renamed_keywords(licence="license", repo="repo_id")
def publish(directory: str, repo_id: str = "", *, license: str | None = None) -> tuple[str, str, str | None]:
    """Return the arguments."""
    return directory, repo_id, license


def test_new_names_and_positions_work_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert publish("out", "me/model", license="mit") == ("out", "me/model", "mit")
        assert publish("out", repo_id="me/model") == ("out", "me/model", None)


def test_an_old_name_works_and_names_the_new_one() -> None:
    with pytest.warns(
        FutureWarning, match=r"publish\(licence=\.\.\.\) is an old name; write license="
    ) as seen:
        assert publish("out", "me/model", licence="mit") == ("out", "me/model", "mit")
    assert [warning.filename for warning in seen] == [__file__]


def test_several_old_names_in_one_call_each_warn() -> None:
    with pytest.warns(FutureWarning) as seen:
        assert publish("out", repo="me/model", licence="mit") == ("out", "me/model", "mit")
    assert len(seen) == 2


def test_both_names_in_one_call_are_refused() -> None:
    with pytest.raises(TypeError, match="got both license and licence, its old name; drop licence"):
        publish("out", licence="mit", license="mit")


def test_the_signature_shows_the_new_names_alone() -> None:
    assert list(inspect.signature(publish).parameters) == ["directory", "repo_id", "license"]
    assert publish.__doc__ == "Return the arguments."


def test_a_renamed_function_warns_at_its_caller() -> None:
    def old() -> None:
        warn_renamed("old()", "new()")

    with pytest.warns(FutureWarning, match=r"old\(\) is an old name; write new\(\)") as seen:
        old()
    assert [warning.filename for warning in seen] == [__file__]


@pytest.mark.parametrize(
    "old, new",
    [
        ("hf_sparse.training.post_training.quantize_trained", "hf_sparse.oneshot.quantize_trained"),
        ("hf_sparse.training.post_training.save_quantized", "hf_sparse.oneshot.quantize_trained"),
        ("hf_sparse.training.post_training.calibration_recipe", "hf_sparse.oneshot.quantize_trained"),
        ("hf_sparse.training.loading.load_trained", "hf_sparse"),
        ("hf_sparse.data.answers.AnswerFinder", "hf_sparse.data.qa_answers"),
        ("hf_sparse.hub.pushing.push", "hf_sparse.hub.upload"),
        ("hf_sparse.hub.pushing.push_in_background", "hf_sparse.hub.upload"),
    ],
)
def test_documented_modules_are_importable_under_their_old_names(old: str, new: str) -> None:
    module, _, name = old.rpartition(".")
    importlib.import_module(module.rpartition(".")[0])
    with pytest.warns(FutureWarning, match=f"{name} is an old name; write {new}"):
        found = getattr(importlib.import_module(module), name)
    if name != "load_trained":
        assert found is getattr(importlib.import_module(new), name)


def test_a_card_is_written_for_a_repository_under_its_old_keyword(tmp_path: Path) -> None:
    with (
        pytest.warns(FutureWarning, match=r"write_card\(repo=\.\.\.\) is an old name; write repo_id="),
        pytest.raises(ValueError, match=str(tmp_path)),
    ):
        write_card(tmp_path, tmp_path, repo="me/model")
