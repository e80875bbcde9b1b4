"""Directories written over earlier ones by processes that are killed between the renames."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.packed.model import load_packed, save_packed
from hf_sparse.oneshot.quantize_trained import calibration_recipe, quantize_trained, save_quantized
from tests.support.doomed import Moment, cheap_processes
from tests.support.tiny import bert, sentences

BATCH = {name: torch.stack([row[name] for row in sentences(4)]) for name in ("input_ids", "attention_mask")}


def write_twice(folder: Path, packed: bool, moment: Moment) -> None:
    """Write a model, then another one over it, and die."""
    for seed in (0, 1):
        model = bert(seed=seed).eval()
        recipe = calibration_recipe()
        quantize_trained(model, [BATCH], recipe)
        if seed == 1:
            moment.arm()
        if packed:
            save_packed(model, folder)
        else:
            save_quantized(model, folder, recipe)


def killed(folder: Path, packed: bool, moment: Moment) -> None:
    process = cheap_processes().Process(target=write_twice, args=(folder, packed, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def seed_of(model: Any) -> int:
    biases = [torch.equal(model.classifier.weight, bert(seed=seed).classifier.weight) for seed in (0, 1)]
    assert any(biases)
    return biases.index(True)


@pytest.mark.parametrize("load", [load_model])
def test_a_replaced_model_is_there_for_whoever_loads_it_next(load: Any, tmp_path: Path) -> None:
    killed(tmp_path / "out", False, Moment("os", "rename", 2))
    assert not (tmp_path / "out").exists()
    assert seed_of(load(str(tmp_path / "out"))) == 0
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(("call", "seed"), [(2, 0), (3, 1), (4, 1)])
def test_a_packed_file_never_lies_beside_the_configuration_of_another(
    call: int, seed: int, tmp_path: Path
) -> None:
    # Packed file and list of names in the staged folder come first, then the configuration, then the file.
    killed(tmp_path / "out", True, Moment("os", "replace", call, after=True))
    assert (tmp_path / "out" / "packed.safetensors").is_file() == (call in (2, 4))
    assert seed_of(load_packed(tmp_path / "out", dequantize=True)) == seed
    assert not (tmp_path / "out" / "_saving").exists()
