"""Damaged sidecars whose digest was made to fit."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hf_sparse import Recipe, find_targets
from hf_sparse.checkpoint.sidecar import SIDECAR, _digest, read_state
from hf_sparse.quantization.fake_layers import FakeQuantLinear
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.methods.group_lasso import GroupLasso
from hf_sparse.sparsity.methods.movement import MovementScores
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.revival import RememberedWeights
from hf_sparse.training.parts.quantizer import Quantizer
from tests.fuzz.mutations import cases, damaged, plain_errors_only
from tests.support.tiny import bert, pruning

RECIPES = [
    pruning(),
    pruning("sparsity.method=group_lasso", "sparsity.pattern=4x4", "sparsity.revive=false"),
    Recipe.preset("prune_ofa_90"),
    Recipe.from_dict({"quantization": {}, "distillation": {"hidden": {"weight": 0.5}}}),
]


class Parts:
    """What a checkpoint's tensors are taken up by, of one tiny model."""

    def __init__(self) -> None:
        model = bert(num_hidden_layers=1, hidden_size=16, intermediate_size=16)
        self.quantizer = Quantizer(Recipe.from_dict({"quantization": {}}).quantization, model)
        targets = find_targets(model)
        blocks = dict.fromkeys(targets.names, Block(4, 4))
        self.masks = Masks(targets)
        self.masks.lock_zeros(blocks)
        self.scores, self.penalty = MovementScores(targets, blocks), GroupLasso(targets, blocks, 0.1)
        self.remembered = RememberedWeights(self.masks)
        for module in model.modules():
            if isinstance(module, FakeQuantLinear):
                module.input_low.fill_(-1), module.input_high.fill_(1)
        for layer in self.quantizer.layers.values():
            layer.seen = True

    def tensors(self) -> dict[str, Tensor]:
        parts = {
            "masks": self.masks.pack(),
            "remembered": self.remembered.pack(),
            "movement_scores": self.scores.state(),
            "penalty": self.penalty.state(),
            "ranges": self.quantizer.state(),
        }
        return {f"{part}/{name}": value for part, held in parts.items() for name, value in held.items()}

    def take_up(self, directory: Path) -> None:
        saved = read_state(directory)
        # What follows is given tensors of any kind, and names them and not the file.
        for part, call in {
            "movement_scores": self.scores.load_state,
            "penalty": self.penalty.load_state,
            "ranges": self.quantizer.load_state,
            "remembered": self.remembered.unpack,
        }.items():
            with plain_errors_only("checkpoint"):
                call(saved.extras.get(part, {}))
        with plain_errors_only("mask"):
            self.masks.unpack(saved.masks)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts()


def other(tensor: Tensor, random: Random) -> Tensor:
    """Return a tensor that differs in values, shape or type."""
    kind = random.randrange(8)
    if kind == 0:
        return tensor.flatten()[: tensor.numel() // 2].clone()
    if kind == 1:
        return tensor.reshape(1, *tensor.shape)
    if kind == 2:
        return tensor.to(random.choice((torch.float64, torch.int8, torch.bool, torch.bfloat16, torch.uint8)))
    if kind == 3:
        return torch.zeros(())
    if kind == 4:
        return torch.zeros(0, dtype=tensor.dtype)
    changed = tensor.clone().flatten()
    if changed.numel():
        values = (torch.nan, torch.inf, -1, 1e30) if changed.is_floating_point() else (0, 255, 120, 1)
        changed[random.randrange(changed.numel())] = random.choice(values)
    return changed.reshape(tensor.shape)


def test_they_are_refused_in_plain_words(parts: Parts, tmp_path: Path) -> None:
    path = tmp_path / SIDECAR
    for random in cases("sidecar", 300):
        recipe: Any = random.choice(RECIPES).to_dict()
        metadata = {"format_version": str(random.choice((1, 2, 3, 4, 4, 4))), "step": "3", "total_steps": "8"}
        tensors = parts.tensors()
        if random.random() < 0.5:
            recipe = damaged(recipe, random)
        metadata["recipe"] = json.dumps(recipe)
        if random.random() < 0.3:
            changed = damaged(metadata, random)
            if isinstance(changed, dict) and changed.get("format_version") in ("1", "2", "3", "4"):
                metadata = {
                    str(name): str(value)
                    for name, value in changed.items()
                    if "\ud800" not in f"{name}{value}"
                }
        for _ in range(random.choice((0, 1, 1, 2))):
            name = random.choice(list(tensors))
            tensor = tensors.pop(name)
            if random.random() < 0.8:
                new = (
                    name
                    if random.random() < 0.9
                    else random.choice(("a", "/", "masks/", "x/y/z", "ranges/a"))
                )
                tensors[new] = other(tensor, random)
        metadata["digest"] = _digest(tensors, metadata)
        save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
        with plain_errors_only(path):
            read_state(tmp_path)
            parts.take_up(tmp_path)
