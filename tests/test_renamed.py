"""Old keywords of functions keep working and name the new ones."""

import inspect
import warnings

import pytest

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
