"""Files of entries: whole or not at all, checked, and written by any number of processes at once."""

import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hf_sparse.distillation import cache_files
from hf_sparse.distillation.cache_files import CacheFile, cache_files_in, write_cache_file
from hf_sparse.distillation.cached_outputs import Output, to_text
from tests.support.doomed import cheap_processes

LAYOUT = (Output(("logits",), "examples", "float32", (2,)),)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def entries(first: int = 0, count: int = 5) -> dict[bytes, bytearray]:
    return {
        key(number): bytearray([number % 256] * (8 + number % 3)) for number in range(first, first + count)
    }


def held(directory: Path) -> dict[bytes, bytearray]:
    found = (CacheFile(path) for path in cache_files_in(directory))
    return {name: file.read(place) for file in found for place, name in enumerate(file.keys)}


def test_entries_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = write_cache_file(tmp_path, entries(), LAYOUT, "whose")
    (path,) = cache_files_in(tmp_path)
    for file in (written, CacheFile(path)):
        assert [file.keys, file.layout, file.identity] == [list(entries()), LAYOUT, "whose"]
        assert [file.read(place) for place in range(5)] == list(entries().values())
        assert file.size == sum(map(len, entries().values()))
        file.check()


def test_an_entry_may_be_empty(tmp_path: Path) -> None:
    file = write_cache_file(tmp_path, {key(0): bytearray(), key(1): bytearray(b"a")}, LAYOUT, "whose")
    assert [file.read(0), file.read(1)] == [bytearray(), bytearray(b"a")]


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    write_cache_file(tmp_path, entries(), LAYOUT, "whose")
    (path,) = cache_files_in(tmp_path)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(
            ValueError, match=r"damaged.*delete that file, and its outputs are computed again"
        ):
            CacheFile(path).check()


@pytest.mark.parametrize(
    "change",
    [
        {"starts": torch.tensor([0, 4, 2, 8])},
        {"starts": torch.tensor([0, 4, 6, 2**60])},
        {"starts": torch.tensor([-4, 4, 6, 8])},
        {"starts": torch.tensor([0, 8])},
        {"keys": torch.zeros(3, 8, dtype=torch.uint8)},
        {"sums": torch.zeros(3)},
    ],
    ids=str,
)
def test_an_index_that_does_not_fit_is_refused_whatever_its_digest(
    change: dict[str, Tensor], tmp_path: Path
) -> None:
    index = {"keys": torch.zeros(3, 16, dtype=torch.uint8), "starts": torch.tensor([0, 4, 6, 8])}
    index |= {"sums": torch.zeros(3, dtype=torch.int64)} | change
    metadata = {"identity": "whose", "layout": to_text(LAYOUT)}
    metadata["digest"] = cache_files._digest(metadata, *index.values())
    path = tmp_path / "outputs-1.safetensors"
    save_file(index | {"data": torch.zeros(8, dtype=torch.uint8)}, path, metadata)
    with pytest.raises(ValueError, match="its index does not fit its entries"):
        CacheFile(path)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_file_that_was_cut_off_is_refused(length: int, tmp_path: Path) -> None:
    write_cache_file(tmp_path, entries(), LAYOUT, "whose")
    (path,) = cache_files_in(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="damaged"):
        CacheFile(path)


def test_damage_after_opening_is_noticed_when_an_entry_is_read(tmp_path: Path) -> None:
    file = write_cache_file(tmp_path, entries(), LAYOUT, "whose")
    content = file.path.read_bytes()
    place = content.rindex(entries()[key(4)])
    file.path.write_bytes(content[:place] + b"xyz" + content[place + 3 :])
    assert file.read(0) == entries()[key(0)]
    with pytest.raises(ValueError, match=r"entry 4 of .* is damaged"):
        file.read(4)
    file.path.write_bytes(content[: place + 3])
    with pytest.raises(ValueError, match=r"entry 4 of .* is damaged"):
        file.read(4)
    file.path.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        file.read(0)


def test_what_a_dead_process_left_is_deleted_after_a_day(tmp_path: Path) -> None:
    write_cache_file(tmp_path, entries(), LAYOUT, "whose")
    old, new = (tmp_path / f".outputs-{name}.safetensors.1" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"begun")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert len(list(cache_files_in(tmp_path))) == 1
    assert new.exists() and not old.exists()


def write_many(directory: Path, first: int) -> None:
    for number in range(20):
        write_cache_file(directory, entries(first + 5 * number), LAYOUT, "whose")


def write_for_ever(directory: Path) -> None:
    number = 0
    while True:
        number += 1
        write_cache_file(directory, entries(5 * number), LAYOUT, "whose")


def test_processes_write_to_one_directory_at_the_same_time(tmp_path: Path) -> None:
    context = cheap_processes()
    processes = [context.Process(target=write_many, args=(tmp_path, 50 * place)) for place in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert held(tmp_path) == entries(count=150)


def test_a_killed_process_leaves_whole_files(tmp_path: Path) -> None:
    process = cheap_processes().Process(target=write_for_ever, args=(tmp_path,))
    process.start()
    while len(list(tmp_path.glob("outputs-*"))) < 20:
        time.sleep(0.01)
    process.kill()
    process.join()
    found = held(tmp_path)
    assert len(found) >= 100
    assert all(found[name] == entries(int.from_bytes(name, "big"), 1)[name] for name in found)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hf_sparse.atomic.files.sync", full)
    with pytest.raises(OSError, match="No space"):
        write_cache_file(tmp_path, entries(), LAYOUT, "whose")
    assert list(tmp_path.iterdir()) == [] and list(cache_files.cache_files_in(tmp_path)) == []
