"""The sidecar is read as it was written; missing, damaged and newer ones are refused."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from hf_sparse.checkpoint import sidecar as module
from hf_sparse.checkpoint.sidecar import FORMAT_VERSION, SIDECAR, SavedState, read_state, write_state
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.sparsity.masks import Masks
from hf_sparse.targets import find_targets
from tests.support.runs import checkpoint, differences, distil_hidden, outcome, prune, unlisted

RECIPE = Recipe.from_dict({"sparsity": {"schedule": {"final": 0.9}, "exclude": ["query"]}})
MASKS = {"a.weight": torch.arange(5, dtype=torch.uint8), "b.weight": torch.tensor([255], dtype=torch.uint8)}
STATE = SavedState(RECIPE, step=120, total_steps=1_000, masks=MASKS)


@pytest.fixture
def sidecar(tmp_path: Path) -> Path:
    write_state(tmp_path, STATE)
    return tmp_path / SIDECAR


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def same(state: SavedState, other: SavedState) -> bool:
    return (
        (state.recipe, state.step, state.total_steps) == (other.recipe, other.step, other.total_steps)
        and state.masks.keys() == other.masks.keys()
        and all(torch.equal(state.masks[name], other.masks[name]) for name in state.masks)
    )


def test_what_was_written_is_read(sidecar: Path) -> None:
    assert same(read_state(sidecar.parent), STATE)
    assert same(read_state(str(sidecar.parent)), STATE)


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe.preset("transfer"), Recipe.from_dict({"distillation": {"temperature": 1e-4}})]
)
def test_a_run_without_masks_is_kept_too(recipe: Recipe, tmp_path: Path) -> None:
    state = SavedState(recipe, 1, 2, {})
    write_state(tmp_path, state)
    assert same(read_state(tmp_path), state)


def test_the_sidecar_has_the_name_that_is_promised(sidecar: Path) -> None:
    assert [path.name for path in sidecar.parent.iterdir()] == ["hf_sparse_state.safetensors"]


def test_the_directory_is_made_where_it_does_not_exist(tmp_path: Path) -> None:
    write_state(tmp_path / "checkpoint-1", STATE)
    assert same(read_state(tmp_path / "checkpoint-1"), STATE)


def test_a_later_state_replaces_an_earlier_one(sidecar: Path) -> None:
    later = SavedState(RECIPE, 240, 1_000, {"a.weight": torch.zeros(5, dtype=torch.uint8)})
    write_state(sidecar.parent, later)
    assert same(read_state(sidecar.parent), later)


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_the_file_takes_at_most_one_bit_a_weight_besides_its_header(sparsity: float, tmp_path: Path) -> None:
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(512, 256) for _ in range(4))
    masks = Masks(find_targets(model))
    for target in masks.targets:
        masks.set(target.name, torch.rand(256, 512) >= sparsity)
    write_state(tmp_path, SavedState(RECIPE, 1, 2, masks.pack()))
    assert (tmp_path / SIDECAR).stat().st_size <= 4 * 256 * 512 // 8 + 1_024


def test_a_missing_sidecar_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="does not exist, so the run in .* cannot be resumed"
    ) as caught:
        read_state(tmp_path)
    assert str(tmp_path / SIDECAR) in str(caught.value)
    assert "start a new run from that model instead: its zeros are locked by default" in str(caught.value)


def test_a_file_cut_short_anywhere_is_refused(sidecar: Path) -> None:
    content = sidecar.read_bytes()
    for length in [*range(0, len(content), 5), len(content) - 1]:
        sidecar.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is damaged .*; resume from an earlier checkpoint") as caught:
            read_state(sidecar.parent)
        assert str(sidecar) in str(caught.value)


def test_a_file_with_something_appended_is_refused(sidecar: Path) -> None:
    sidecar.write_bytes(sidecar.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="is damaged"):
        read_state(sidecar.parent)


def test_a_flipped_bit_is_noticed_in_any_byte(sidecar: Path) -> None:
    content = sidecar.read_bytes()
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        sidecar.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"is damaged|has format version") as caught:
            read_state(sidecar.parent)
        assert str(sidecar) in str(caught.value)


@pytest.mark.parametrize("name", ["recipe", "step", "total_steps"])
def test_a_file_whose_settings_were_changed_is_refused(name: str, sidecar: Path) -> None:
    changed = metadata_of(sidecar) | {name: "7"}
    save_file(load_file(sidecar), sidecar, metadata=changed)
    with pytest.raises(ValueError, match="is damaged .*digest"):
        read_state(sidecar.parent)


def test_a_file_of_a_newer_format_asks_for_an_upgrade(sidecar: Path) -> None:
    newer = str(FORMAT_VERSION + 1)
    save_file(
        {"anything": torch.zeros(2)}, sidecar, metadata={"format_version": newer, "what": "we cannot know"}
    )
    with pytest.raises(
        ValueError, match=f"format version {newer}, .* up to {FORMAT_VERSION}; upgrade hf_sparse"
    ):
        read_state(sidecar.parent)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_of_something_else_is_refused(metadata: dict[str, str] | None, sidecar: Path) -> None:
    save_file({"weight": torch.zeros(2)}, sidecar, metadata=metadata)
    with pytest.raises(ValueError, match="has format version none, this release reads"):
        read_state(sidecar.parent)


def test_extras_come_back_beside_the_masks(tmp_path: Path) -> None:
    extras = {
        "remembered": {"a.weight": torch.randn(3), "b.weight": torch.randn(2).to(torch.bfloat16)},
        "distillation": {"hidden.0": torch.randn(2, 3)},
    }
    write_state(tmp_path, SavedState(RECIPE, 1, 2, MASKS, extras))
    read = read_state(tmp_path)
    assert same(read, SavedState(RECIPE, 1, 2, MASKS))
    assert {part: set(held) for part, held in read.extras.items()} == {
        part: set(held) for part, held in extras.items()
    }
    assert all(
        torch.equal(read.extras[part][name], extras[part][name]) for part in extras for name in extras[part]
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64], ids=str)
def test_numbers_of_other_types_are_refused_by_name(dtype: torch.dtype, tmp_path: Path) -> None:
    state = SavedState(Recipe(), 1, 2, {}, {"remembered": {"a.weight": torch.zeros(2).to(dtype)}})
    with pytest.raises(ValueError, match=rf"remembered/a.weight is a tensor of {dtype}, and .*; convert it"):
        write_state(tmp_path, state)
    assert not (tmp_path / SIDECAR).exists()


def write_version_1(folder: Path, state: SavedState) -> None:
    """Write a sidecar as the first release did: masks under the bare names of their weights, nothing else."""
    masks = dict(state.masks)
    metadata = {
        "format_version": "1",
        "recipe": json.dumps(state.recipe.to_dict()),
        "step": str(state.step),
        "total_steps": str(state.total_steps),
    }
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(masks):
        digest.update(name.encode())
        digest.update(masks[name].numpy().tobytes())
    save_file(masks, folder / SIDECAR, metadata | {"digest": digest.hexdigest()})


def test_a_sidecar_of_version_1_is_read(tmp_path: Path) -> None:
    write_version_1(tmp_path, STATE)
    assert same(read_state(tmp_path), STATE)


def test_a_run_with_a_sidecar_of_version_1_resumes_bit_for_bit(tmp_path: Path) -> None:
    straight = prune(tmp_path, save_strategy="steps", save_steps=1)
    straight.train()
    folder = unlisted(checkpoint(tmp_path, 4))
    write_version_1(folder, read_state(folder))
    resumed = prune(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(folder))
    assert list(differences(outcome(straight), outcome(resumed))) == []


def test_a_run_from_before_errors_were_normalized_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its recipe nor the one that it is resumed with mentions `normalize`."""
    plain = {"distillation.hidden": "{weight: 0.5, normalize: false}"}
    straight = distil_hidden(tmp_path, plain, save_strategy="steps", save_steps=1)
    straight.train()
    folder = unlisted(checkpoint(tmp_path, 4))
    saved = read_state(folder)
    silent = saved.recipe.to_dict()
    del silent["distillation"]["hidden"]["normalize"]
    with monkeypatch.context() as then:
        then.setattr(module, "FORMAT_VERSION", 2)
        write_state(folder, replace(saved, recipe=Recipe.from_dict(silent)))
    assert read_state(folder).recipe == saved.recipe
    resumed = distil_hidden(tmp_path / "resumed")
    assert resumed.recipe.distillation.hidden.normalize
    resumed.train(resume_from_checkpoint=str(folder))
    assert not resumed.recipe.distillation.hidden.normalize
    assert list(differences(outcome(straight), outcome(resumed))) == []
    said = distil_hidden(tmp_path / "said", {"distillation.hidden": "{weight: 0.5, normalize: true}"})
    with pytest.raises(ValueError, match="hidden.normalize was False, is True"):
        said.train(resume_from_checkpoint=str(folder))
