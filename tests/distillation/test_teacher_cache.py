"""A directory of outputs belongs to one teacher, tokenizer and set of settings; anything else is refused."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from hf_sparse import TeacherCache
from hf_sparse.distillation import teacher_cache
from hf_sparse.distillation.teacher_cache import IDENTITY, TeacherOutputs, as_cache, check_kept
from hf_sparse.distillation.teacher_identity import identity_of
from tests.support.tiny import bert, masked_lm

CPU = torch.device("cpu")
BATCH = {"input_ids": torch.arange(8).view(2, 4)}


def tokenizer(**words: int) -> SimpleNamespace:
    return SimpleNamespace(get_vocab=lambda: words)


def opened(directory: Path, **changes: Any) -> TeacherOutputs:
    settings = {
        "teacher": bert(),
        "words": tokenizer(a=1),
        "precision": "no",
        "outputs": ["logits"],
    } | changes
    cache = TeacherCache(directory, **{name: changes[name] for name in ("top_k", "half") if name in changes})
    identity = identity_of(*(settings[name] for name in ("teacher", "words", "precision", "outputs")))
    return TeacherOutputs(cache, identity, changes.get("temperature", 2.0))


class Teacher:
    """Returns twice the ids as logits, and counts the rows that it computes."""

    def __init__(self, classes: int = 3) -> None:
        self.rows, self.classes = 0, classes

    def __call__(self, given: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping]:
        ids = given["input_ids"]
        self.rows += len(ids)
        logits = 2.0 * ids[..., None] + torch.arange(self.classes)
        return {"logits": logits}, {("logits",): "tokens"}


def test_each_example_is_computed_once(tmp_path: Path) -> None:
    cache, teacher = opened(tmp_path), Teacher()
    first = cache.outputs(BATCH, teacher, CPU)["logits"]
    mixed = {"input_ids": torch.cat([BATCH["input_ids"].flip(0), torch.full((2, 4), 9)])}
    second = cache.outputs(mixed, teacher, CPU)["logits"]
    assert torch.equal(second[:2], first.flip(0)) and torch.equal(
        second[2], 18.0 + torch.arange(3).expand(4, 3)
    )
    # Equal rows of a batch are computed once, too.
    assert (teacher.rows, cache.read, cache.computed, len(cache)) == (3, 3, 3, 3)
    cache.flush()
    again = opened(tmp_path)
    assert torch.equal(again.outputs(mixed, teacher, CPU)["logits"], second)
    assert teacher.rows == 3 and "3 examples" in again.describe()


def test_what_others_write_is_seen_after_refreshing(tmp_path: Path) -> None:
    ours, theirs, teacher = opened(tmp_path), opened(tmp_path), Teacher()
    theirs.outputs(BATCH, teacher, CPU)
    theirs.flush()
    ours.refresh()
    ours.outputs(BATCH, teacher, CPU)
    ours.flush()
    assert teacher.rows == 2 and len(list(tmp_path.glob("*.safetensors"))) == 1


def test_of_two_that_computed_an_example_all_take_the_same(tmp_path: Path) -> None:
    class Rounded(Teacher):
        """Differs in the last bits, as a batch of another length makes it."""

        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def __call__(self, given: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping]:
            outputs, wanted = super().__call__(given)
            return {"logits": outputs["logits"] + self.by}, wanted

    caches = [opened(tmp_path) for _ in range(4)]
    for number, cache in enumerate(caches):
        cache.outputs(BATCH, Rounded(1e-6 * number), CPU)
    for cache in caches:
        cache.flush()
    for cache in caches:
        cache.refresh()
    caches.append(opened(tmp_path))
    found = [cache.outputs(BATCH, Teacher(), CPU)["logits"] for cache in caches]
    assert all(torch.equal(each, found[0]) for each in found)


def test_much_that_waits_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "_SHARD", 100)
    cache, teacher = opened(tmp_path), Teacher()
    for number in range(4):
        cache.outputs({"input_ids": torch.full((1, 4), number)}, teacher, CPU)
    assert len(opened(tmp_path)) == 3
    cache.outputs({"input_ids": torch.arange(4)[:, None].expand(4, 4)}, teacher, CPU)
    assert teacher.rows == 4


def changed(change: Callable[[nn.Module], Any]) -> nn.Module:
    model = bert()
    with torch.no_grad():
        change(model)
    return model


REFUSED = {
    "weight": (
        {"teacher": changed(lambda model: model.classifier.bias[0].add_(1))},
        "a teacher whose digest is",
    ),
    "buffer": (
        {"teacher": changed(lambda model: model.register_buffer("b", torch.ones(1)))},
        "a teacher whose",
    ),
    "dtype": ({"teacher": bert().bfloat16()}, "a teacher whose digest"),
    "config": (
        {"teacher": changed(lambda model: setattr(model.config, "hidden_act", "relu"))},
        "a teacher whose",
    ),
    "kind": ({"teacher": masked_lm()}, "a teacher whose digest is"),
    "tokenizer": ({"words": tokenizer(a=2)}, "a tokenizer whose digest is"),
    "precision": ({"precision": "bf16"}, "mixed precision no, and this run has bf16"),
    "outputs": ({"outputs": ["logits", "hidden_states/2"]}, "has hidden_states/2, logits"),
    "top_k": ({"top_k": 5}, "top_k 64, and this run has 5"),
    "all": ({"top_k": None}, "top_k 64, and this run has None"),
    "half": ({"half": True}, "half False, and this run has True"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_a_foreign_cache_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(ValueError, match="was written with") as caught:
        opened(tmp_path, **changes)
    assert message in str(caught.value)
    assert str(caught.value).endswith("choose another directory for teacher_cache, or delete this one")


def test_a_cache_is_not_refused_for_what_does_not_matter(tmp_path: Path) -> None:
    opened(tmp_path)
    teacher = bert().eval().requires_grad_(False)
    teacher.config._name_or_path = "elsewhere"
    opened(tmp_path, teacher=teacher, temperature=3.0)
    opened(tmp_path, teacher=torch.compile(bert()), words=None)


def test_another_temperature_is_refused_where_the_mass_of_small_logits_is_kept(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    for directory, classes in ((few, 3), (many, 200)):
        cache = opened(directory)
        cache.outputs(BATCH, Teacher(classes), CPU)
        cache.flush()
    opened(few, temperature=3.0)
    with pytest.raises(ValueError, match=r"at temperature 2, and the recipe has distillation.temperature 3;"):
        opened(many, temperature=3.0)


def test_files_of_another_cache_are_refused(tmp_path: Path) -> None:
    ours, theirs = opened(tmp_path / "ours"), opened(tmp_path / "theirs", half=True)
    for cache in (ours, theirs):
        cache.outputs(BATCH, Teacher(), CPU)
        cache.flush()
    (path,) = (tmp_path / "theirs").glob("*.safetensors")
    path.rename(tmp_path / "ours" / path.name)
    with pytest.raises(ValueError, match="belongs to another teacher or other settings"):
        opened(tmp_path / "ours")
    (tmp_path / "ours" / IDENTITY).unlink()
    with pytest.raises(ValueError, match="holds outputs of an unknown teacher"):
        opened(tmp_path / "ours")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"format_version": 2}'])
def test_a_damaged_description_is_refused(content: bytes, tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / IDENTITY).write_bytes(content)
    with pytest.raises(ValueError, match=r"choose another directory for teacher_cache, or delete this one"):
        opened(tmp_path)


def test_a_damaged_file_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opened(tmp_path)
    cache.outputs(BATCH, Teacher(), CPU)
    cache.flush()
    (path,) = tmp_path.glob("outputs-*")
    content = bytearray(path.read_bytes())
    content[content.index(torch.tensor([2.0, 3.0, 4.0]).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="entry 0 of .* is damaged; delete that file"):
        opened(tmp_path)
    # A large cache is checked as it is read.
    monkeypatch.setattr(teacher_cache, "_CHECKED", 0)
    later = opened(tmp_path)
    with pytest.raises(ValueError, match="entry 0 of .* is damaged; delete that file"):
        later.outputs(BATCH, Teacher(), CPU)
    path.unlink()
    assert len(opened(tmp_path)) == 0


def test_outputs_of_another_form_are_refused(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.outputs(BATCH, Teacher(3), CPU)
    with pytest.raises(ValueError, match="differ in shape or type"):
        cache.outputs({"input_ids": torch.tensor([[0, 1, 2, 3], [9, 9, 9, 9]])}, Teacher(4), CPU)


def test_training_goes_on_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    cache, teacher = opened(tmp_path), Teacher()
    monkeypatch.setattr(teacher_cache, "write_cache_file", full)
    for _ in range(2):
        cache.outputs(BATCH, teacher, CPU)
        cache.flush()
    assert teacher.rows == 4
    (warning,) = caplog.messages
    assert "cannot be written (No space left on device), so training goes on" in warning


def test_the_first_of_two_that_begin_at_once_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = teacher_cache.create_file

    def second(path: Path, content: bytes) -> bool:
        create(path, json.dumps(json.loads(content) | {"half": True}).encode())
        return create(path, content)

    monkeypatch.setattr(teacher_cache, "create_file", second)
    with pytest.raises(ValueError, match="half True, and this run has False"):
        opened(tmp_path)


def test_what_a_trainer_is_given_is_checked() -> None:
    assert as_cache(None, False) is None
    assert as_cache("here", True) == TeacherCache("here") == as_cache(TeacherCache("here"), True)
    with pytest.raises(ValueError, match="the recipe lacks distillation; leave it out"):
        as_cache("here", False)
    with pytest.raises(TypeError, match="teacher_cache is a directory or a TeacherCache, got 3"):
        as_cache(3, True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="top_k is a whole number, at least 1, got 0; None keeps all"):
        TeacherCache("here", top_k=0)


def test_models_whose_outputs_depend_on_padding_are_refused() -> None:
    model = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(model_type="convbert", is_encoder_decoder=False)
    with pytest.raises(ValueError, match="the outputs of convbert depend on how far a text is padded"):
        check_kept(TeacherCache("somewhere"), model, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"directory": ""}, "is empty; name one"),
        ({"directory": __file__}, "is a file; name a directory"),
        ({"directory": "here", "top_k": 2.5}, "top_k is a whole number, at least 1, got 2.5"),
        ({"directory": "here", "top_k": True}, "got True"),
        ({"directory": "here", "top_k": "64"}, "got '64'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TeacherCache(**settings)
