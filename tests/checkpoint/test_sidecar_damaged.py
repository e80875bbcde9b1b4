"""Sidecars with a valid digest and invalid content are refused."""

import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_sparse import Recipe, find_targets
from hf_sparse.checkpoint import sidecar as module
from hf_sparse.checkpoint.sidecar import SIDECAR, SavedState, _digest, read_state, write_state
from hf_sparse.sparsity.masks import Masks

RECIPE = Recipe.from_dict({"sparsity": {"schedule": {"final": 0.9}}, "quantization": {}})
MASKS = {"a.weight": torch.arange(4, dtype=torch.uint8)}
EXTRAS = {"ranges": {"a": torch.tensor([-1.0, 1.0])}, "remembered": {"a.weight": torch.ones(2)}}


@pytest.fixture
def sidecar(tmp_path: Path) -> Path:
    write_state(tmp_path, SavedState(RECIPE, 1, 2, MASKS, EXTRAS))
    return tmp_path / SIDECAR


def rewrite(path: Path, tensors: dict[str, Tensor], fits: bool = True, **changes: Any) -> None:
    """Write a sidecar with some tensors and metadata changed, None to leave one out."""
    with safe_open(path, "pt") as file:
        metadata = {name: value for name, value in (file.metadata() | changes).items() if value is not None}
    tensors = load_file(path) | tensors
    if fits:
        del metadata["digest"]
        metadata["digest"] = _digest(tensors, metadata)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    "other",
    [
        MASKS["a.weight"].view(2, 2),
        MASKS["a.weight"].view(torch.int8),
        MASKS["a.weight"].view(torch.float32),
    ],
)
def test_the_digest_is_of_types_and_shapes_too(other: Tensor, sidecar: Path) -> None:
    rewrite(sidecar, {"masks/a.weight": other}, fits=False)
    with pytest.raises(ValueError, match="it does not match its digest"):
        read_state(sidecar.parent)


def test_a_sidecar_of_version_3_is_read_by_its_own_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr(module, "FORMAT_VERSION", 3)
        write_state(tmp_path, SavedState(RECIPE, 1, 2, MASKS, EXTRAS))
    found = read_state(tmp_path)
    assert found.format_version == 3 and found.recipe == RECIPE
    assert torch.equal(found.masks["a.weight"], MASKS["a.weight"])


NO_RANGES = {
    "no number": torch.tensor([-1.0, torch.nan]),
    "no end": torch.tensor([-1.0, torch.inf]),
    "no beginning": torch.tensor([-torch.inf, 1.0]),
    "turned round": torch.tensor([1.0, -1.0]),
    "three ends": torch.tensor([1.0, 2.0, 3.0]),
    "one end": torch.tensor(1.0),
    "whole numbers": torch.tensor([-1, 1]),
}


@pytest.mark.parametrize("kind", NO_RANGES)
def test_ranges_are_of_numbers(kind: str, sidecar: Path) -> None:
    rewrite(sidecar, {"ranges/a": NO_RANGES[kind]})
    with pytest.raises(
        ValueError, match=f"{sidecar} is damaged .ranges/a is not a range of numbers.; resume"
    ):
        read_state(sidecar.parent)


@pytest.mark.parametrize("mask", [torch.zeros(4), torch.zeros(2, 2, dtype=torch.uint8)])
def test_masks_are_bytes(mask: Tensor, sidecar: Path) -> None:
    rewrite(sidecar, {"masks/a.weight": mask})
    with pytest.raises(ValueError, match="is damaged .masks/a.weight is not a mask.; resume"):
        read_state(sidecar.parent)


METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "no step": ({"step": None}, "step is None"),
    "half a step": ({"step": "1.5"}, "step is '1.5'"),
    "a step of other digits": ({"total_steps": "²"}, "total_steps is '²'"),
    "a step without end": ({"step": "9" * 5000}, "step is '999"),
    "no recipe": ({"recipe": None}, "Expecting value"),
    "a recipe that is none": ({"recipe": "[]"}, "a recipe is a mapping"),
    "a deep recipe": ({"recipe": "[" * 2000}, "more than 64 levels"),
    "another recipe": ({"recipe": '{"sparsity": {"method": "lasso"}}'}, "sparsity.method is 'lasso'"),
    "an old recipe that is none": ({"recipe": '{"distillation": 3}', "format_version": "2"}, "distillation"),
}


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_are_as_they_are_written(kind: str, sidecar: Path) -> None:
    changes, message = METADATA[kind]
    rewrite(sidecar, {}, **changes)
    with pytest.raises(ValueError, match=f"{sidecar} is damaged .*{message}.*; resume from an earlier"):
        read_state(sidecar.parent)


@pytest.mark.parametrize("version", ["²", "9" * 5000, "1.0", " 1", "-1"])
def test_a_version_is_a_number(version: str, sidecar: Path) -> None:
    rewrite(sidecar, {}, fits=False, format_version=version)
    with pytest.raises(ValueError, match="has format version .*, this release reads up to") as caught:
        read_state(sidecar.parent)
    assert len(str(caught.value)) < 300


def layer() -> Masks:
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(64, 64)])
    return Masks(find_targets(model))


def test_a_mask_is_expanded_no_further_than_its_weight() -> None:
    masks = layer()
    (name,) = masks.targets.names
    right = zlib.compress(bytes(512))
    masks.unpack({name: torch.frombuffer(bytearray(right), dtype=torch.uint8)})
    assert masks.removed(name) == 64 * 64
    for content in (zlib.compress(bytes(513)), zlib.compress(bytes(511)), right[:-1], right + b"\0", b"x"):
        packed = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        with pytest.raises(ValueError, match=f"the stored mask of {name} .* is not one of"):
            masks.unpack({name: packed})


def test_a_small_mask_takes_no_gigabytes() -> None:
    code = """
import resource, zlib, torch
from torch import nn
from hf_sparse import find_targets
from hf_sparse.sparsity.masks import Masks
model = nn.Module()
model.layers = nn.ModuleList([nn.Linear(64, 64)])
masks = Masks(find_targets(model))
machine = zlib.compressobj()
content = b"".join(machine.compress(bytes(1 << 24)) for _ in range(64)) + machine.flush()
packed = torch.frombuffer(bytearray(content), dtype=torch.uint8)
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20), now + (64 << 20)))
try:
    masks.unpack({masks.targets.names[0]: packed})
except ValueError as error:
    print("is not one of" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_what_is_written_is_json_that_is_read(tmp_path: Path) -> None:
    """A recipe of every kind of value comes back from a sidecar as it was."""
    for recipe in (RECIPE, Recipe.preset("prune_ofa_90"), Recipe()):
        write_state(tmp_path, SavedState(recipe, 1, 2, {}))
        with safe_open(tmp_path / SIDECAR, "pt") as file:
            assert json.loads(file.metadata()["recipe"]) == recipe.to_dict()
        assert read_state(tmp_path).recipe == recipe
