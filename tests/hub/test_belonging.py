"""A push sends the files of a directory, and none that a link or an index names elsewhere."""

import json
import shutil
from pathlib import Path

import pytest

from hf_sparse.checkpoint.formats import write_format
from hf_sparse.checkpoint.load import load_model
from hf_sparse.hub.push_directory import staged
from tests.hub.pushing import REPO, saved
from tests.support.tiny import bert


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("compressed")
    write_format(load_model(str(saved(home / "model"))), home / "compressed")
    return home / "compressed"


@pytest.fixture
def model(compressed: Path, tmp_path: Path) -> Path:
    """A directory whose files are taken as they are."""
    return Path(shutil.copytree(compressed, tmp_path / "model"))


def names(directory: Path) -> set[str]:
    with staged(directory, REPO) as ready:
        return {path for path, _ in ready.files}


@pytest.mark.parametrize(
    "name", ["LICENSE", "README.md", "vocab.txt", "pictures/ours.png", "model.safetensors", "config.json"]
)
def test_a_link_that_leaves_the_directory_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    path, outside = model / name, tmp_path / "outside"
    path.parent.mkdir(exist_ok=True)
    outside.write_bytes(path.read_bytes() if path.is_file() else b"# Mine\n![](pictures/ours.png)")
    path.unlink(missing_ok=True)
    path.symlink_to(outside)
    with pytest.raises(ValueError, match=f"^{path} is a link to {outside}, outside of the directory, and"):
        names(model)


def test_a_folder_of_pictures_elsewhere_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").write_bytes(b"\0")
    (model / "pictures").symlink_to(tmp_path / "photos")
    with pytest.raises(ValueError, match="pictures/me.png is a link to "):
        names(model)


def test_links_within_the_directory_and_of_files_that_are_not_published_are_none_of_its_business(
    model: Path, tmp_path: Path
) -> None:
    (model / "LICENSE").symlink_to("terms.txt")
    (model / "terms.txt").write_text("free")
    (model / "data").symlink_to(tmp_path)
    assert {"LICENSE", "model.safetensors"} < names(model)
    assert not names(model) & {"terms.txt", "data"}
    (tmp_path / "link").symlink_to(model)
    assert names(tmp_path / "link") == names(model)


def test_weights_beside_those_that_are_loaded_are_not_published(model: Path) -> None:
    for name in ("model_old.safetensors.bak", "model_old.safetensors", "model.safetensors.index.json.old"):
        (model / name).write_bytes(b"\xff" * 20)
    for name in ("chat_template.bak", "LICENSE.bak", "pictures/film.mp4"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("old")
    (model / "README.md").write_text("![](pictures/film.mp4)")
    assert names(model) == {"README.md", "config.json", "model.safetensors"}


def sharded(model: Path, name: object) -> None:
    shutil.move(model / "model.safetensors", model / "part.safetensors")
    index = {"metadata": {}, "weight_map": {"weight": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside", r"..\outside", "a/b", "..", "", 3])
def test_an_index_names_files_beside_it(name: object, model: Path) -> None:
    sharded(model, name)
    with pytest.raises(ValueError, match=r"index.json names .* not a file beside it; restore it, or save"):
        names(model)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a valid JSON"),
        ("[]", "is not a valid JSON"),
        ("[" * 5000, "is not a valid JSON"),
        ("{}", "does not say which files hold the weights"),
        ('{"weight_map": 3}', "does not say which files hold the weights"),
    ],
)
def test_a_damaged_index_is_named(text: str, said: str, model: Path) -> None:
    sharded(model, "part.safetensors")
    (model / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=f"model.safetensors.index.json {said}"):
        names(model)


def test_a_plain_model_is_not_loaded_through_links_either(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "model")
    shutil.move(tmp_path / "model" / "model.safetensors", tmp_path / "elsewhere")
    (tmp_path / "model" / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link to "):
        names(tmp_path / "model")
