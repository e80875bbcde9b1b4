"""Files are read as tensors and nothing else, or refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hf_sparse.checkpoint.packed.model import save_packed
from hf_sparse.hub.legacy.old_checkpoint import read_state
from tests.hub.legacy.written import config_of, tensors_of, wide, write

TENSORS = {"one.weight": torch.arange(6.0).reshape(2, 3), "two": torch.zeros(2, dtype=torch.int64)}
CONFIG = {"model_type": "bert", "own": "key"}


def same(directory: Path) -> bool:
    state = read_state(str(directory))
    assert state.config == CONFIG and state.tensors.keys() == TENSORS.keys()
    return all(torch.equal(state.tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_whole_files_are_read(tmp_path: Path, file: str) -> None:
    assert same(write(tmp_path, TENSORS, CONFIG, file))


def test_pickles_from_before_zip_are_read(tmp_path: Path) -> None:
    write(tmp_path, {}, CONFIG)
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert same(tmp_path)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_shards_are_read(tmp_path: Path, kind: str) -> None:
    assert same(sharded(tmp_path, kind, [{name: value} for name, value in TENSORS.items()]))


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds one.weight again, which another shard has"):
        read_state(str(sharded(tmp_path, "bin", [TENSORS, TENSORS])))


def sharded(directory: Path, kind: str, shards: list[dict[str, torch.Tensor]]) -> Path:
    stem = {"bin": "pytorch_model", "safetensors": "model"}[kind]
    write(directory, {}, CONFIG)
    (directory / "pytorch_model.bin").unlink()
    names = [f"{stem}-{number}.{kind}" for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        save = save_file if kind == "safetensors" else torch.save
        save(shard, directory / name)
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    if shards[0] is shards[-1]:
        weight_map = {"a": names[0], "b": names[1]}
    (directory / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


class Code:
    """What a hostile pickle does when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["HOSTILE"],)


def test_code_in_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE", str(tmp_path / "ran"))
    write(tmp_path, {"weight": Code()}, CONFIG)
    with pytest.raises(ValueError, match="holds more than tensors, whose code would run"):
        read_state(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_refused(tmp_path: Path, file: str, share: float) -> None:
    write(tmp_path, {"weight": torch.ones(100, 100)}, CONFIG, file)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        read_state(str(tmp_path))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"state_dict": TENSORS}, "holds 'state_dict', which is not a tensor"),
        ({"weight": 1.0}, "holds 'weight', which is not a tensor"),
        ([torch.ones(1)], "holds a list, no tensors by name"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(tmp_path: Path, held: object, message: str) -> None:
    write(tmp_path, {}, CONFIG)
    torch.save(held, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message):
        read_state(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not a valid JSON"), ("[]", "does not hold a table of names"), (None, "lacks config.json")],
)
def test_a_directory_without_a_configuration_is_refused(
    tmp_path: Path, text: str | None, message: str
) -> None:
    write(tmp_path, TENSORS, CONFIG)
    (tmp_path / "config.json").unlink()
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_state(str(tmp_path))


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {}, CONFIG)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        read_state(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, {}, CONFIG)
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "pytorch_model.bin.index.json").write_text(text)
    with pytest.raises(ValueError, match="index"):
        read_state(str(tmp_path))


def test_a_packed_directory_is_not_for_here(tmp_path: Path) -> None:
    save_packed(wide(), tmp_path)
    with pytest.raises(ValueError, match="load it with load_packed"):
        read_state(str(tmp_path))


def test_the_configuration_of_an_older_release_is_kept(tmp_path: Path) -> None:
    model = wide()
    state = read_state(str(write(tmp_path, tensors_of(model), config_of(model))))
    assert state.config["torch_dtype"] == "float32" and state.config["pruned_heads"] == {}
