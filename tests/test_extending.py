"""A method of each kind, and a pattern, take one file and one line: shown in a copy of the package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "hf_sparse"

METHOD = '''"""Pruning of the largest weights, which nobody wants."""

import numpy as np
import torch

from hf_sparse.sparsity.methods.method import Method
from hf_sparse.sparsity.patterns.block import Array


def smallness(weight: Array, out: Array | None = None) -> Array:
    """Score a weight by its negative absolute value."""
    scores = (np.absolute if isinstance(weight, np.ndarray) else torch.abs)(weight, out=out)
    return (np.negative if isinstance(weight, np.ndarray) else torch.neg)(scores, out=out)


inverse = Method(score=smallness)
'''
PENALTY = '''"""Weights pulled to zero by their size before the small ones are removed."""

import torch
from torch import Tensor

from hf_sparse.fields import Factor, Part
from hf_sparse.sparsity.methods.magnitude import absolute
from hf_sparse.sparsity.methods.method import Method, PruningRun, settings_as
from hf_sparse.sparsity.methods.penalty import PenalizedRun, Penalty
from hf_sparse.targets import Targets


class Decay(Penalty):
    """strength / 2 * sum of w^2."""

    def __init__(self, targets: Targets, strength: float) -> None:
        super().__init__(strength)
        self.targets = targets

    def refresh(self) -> None:
        """Do nothing: nothing is held constant."""

    def add_gradients(self, scale: float = 1.0) -> float:
        for target in self.targets:
            target.gradient.add_(target.weight.detach(), alpha=scale * self.strength.value)
        return self.strength.value / 2 * sum(float(t.weight.detach().square().sum()) for t in self.targets)

    def sizes(self) -> Tensor:
        return torch.cat([target.weight.detach().abs().flatten() for target in self.targets]) / 0.01


class DecayRecipe(Part):
    """How strongly weights are pulled."""

    strength: Factor = 1.0


def start(run: PruningRun) -> PenalizedRun:
    """Pull by the strength that the recipe gives, throughout."""
    settings = settings_as(DecayRecipe, run.settings)
    return PenalizedRun(run, Decay(run.targets, settings.strength), adapt=False)


decay = Method(score=absolute, settings=DecayRecipe, start=start)
'''
LEARNED = '''"""Scores that rise where the loss depends on a weight."""

from torch import Tensor

from hf_sparse.fields import Factor
from hf_sparse.sparsity.methods.method import Method
from hf_sparse.sparsity.methods.movement import MovementRun, MovementScores, ScoresRecipe


class Sensitivity(MovementScores):
    """Scores of sensitivity."""

    def gradient_of(self, gradient: Tensor, weight: Tensor) -> Tensor:
        return -(gradient * weight).abs()


class SensitivityRecipe(ScoresRecipe):
    """How fast scores are learned."""

    learning_rate: Factor = 0.5


sensitivity = Method(settings=SensitivityRecipe, start=MovementRun, learn=Sensitivity)
'''
PATTERN = '''"""Rows in pairs."""

from dataclasses import dataclass

from hf_sparse.sparsity.patterns.block import Block


@dataclass(frozen=True)
class RowPair:
    """Two whole rows at a time."""

    share: None = None

    def __str__(self) -> str:
        return "row_pair"

    def fit(self, name: str, shape: tuple[int, int]) -> Block:
        return Block(2, shape[1]).fit(name, shape)


def read_row_pair(text: str) -> RowPair | None:
    """Read `row_pair`."""
    return RowPair() if text == "row_pair" else None
'''
TRAINING = """
import json, sys, torch
from tests.support.tiny import arguments, bert, sentences
from hf_sparse import Recipe, SparseTrainer, find_targets, measure_sparsity
from hf_sparse.checkpoint.sidecar import read_state

recipe = Recipe.preset("gmp_finetune").override(json.loads(sys.argv[2]))
model = bert()
before = {target.name: target.weight.detach().clone() for target in find_targets(model)}
args = arguments(sys.argv[1], learning_rate=0.0, logging_steps=1)
trainer = SparseTrainer(model=model, args=args, train_dataset=sentences(), recipe=recipe)
trainer.train()
trainer.save_model()
loaded = type(model).from_pretrained(sys.argv[1])
name, weight = next((target.name, target.weight.detach()) for target in find_targets(loaded))
gone = before[name].abs()[weight == 0]
print(json.dumps({"sparsity": measure_sparsity(loaded).overall,
                  "smallest gone": gone.min().item(), "largest kept": weight.abs().max().item(),
                  "penalties": [row["penalty"] for row in trainer.state.log_history if "penalty" in row],
                  "saved": {part: len(held) for part, held in read_state(sys.argv[1]).extras.items()},
                  "rate": trainer.sparsifier.scores and trainer.sparsifier.scores.learning_rate,
                  "squares": sum(values.square().sum().item() for values in before.values()),
                  "zero rows": (weight == 0).all(1).view(-1, 2).sum(1).tolist()}))
"""


def train_with(
    folder: Path, file: str, text: str, registry: str, line: tuple[str, str], *overrides: str
) -> dict:
    """Copy the package, add one file and one line, and train in a process that sees nothing but the copy."""
    copy = folder / "hf_sparse"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / file).write_text(text)
    before, after = line
    source = (copy / registry).read_text()
    assert before in source
    (copy / registry).write_text(source.replace(before, after))
    helpers = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", TRAINING, str(folder / "out"), json.dumps(overrides)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{helpers}", "PATH": "", "HOME": str(folder)},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def train_method(folder: Path, name: str, text: str, *overrides: str) -> dict:
    """Add a method to a copy of the package, prune half of every weight by it."""
    line = (
        '    "magnitude": magnitude,\n',
        f'    "magnitude": magnitude,\n    "{name}": '
        f'__import__("hf_sparse.sparsity.methods.{name}", fromlist=["x"]).{name},\n',
    )
    file, registry = f"sparsity/methods/{name}.py", "sparsity/methods/__init__.py"
    chosen = [f"sparsity.method={name}", "sparsity.schedule.final=0.5", *overrides]
    found = train_with(folder, file, text, registry, line, *chosen)
    assert found["sparsity"] == pytest.approx(0.5, abs=0.01)
    return found


def test_a_score_takes_one_file_and_one_line(tmp_path: Path) -> None:
    found = train_method(tmp_path, "inverse", METHOD)
    assert found["smallest gone"] >= found["largest kept"]
    assert (found["penalties"], found["saved"]) == ([], {})


def test_a_penalty_with_settings_takes_one_file_and_one_line(tmp_path: Path) -> None:
    found = train_method(tmp_path, "decay", PENALTY, "sparsity.decay.strength=3.0")
    # With a learning rate of zero no weight moves before the first mask.
    assert found["penalties"][0] == pytest.approx(3.0 / 2 * found["squares"])
    assert found["penalties"][-1] == 0
    assert found["saved"] == {"penalty": 2}


def test_learned_scores_with_settings_take_one_file_and_one_line(tmp_path: Path) -> None:
    found = train_method(tmp_path, "sensitivity", LEARNED, "sparsity.sensitivity.learning_rate=0.25")
    assert (found["saved"], found["rate"]) == ({"movement_scores": 12}, 0.25)


def test_a_pattern_takes_one_file_and_one_line(tmp_path: Path) -> None:
    line = (
        '    "row, column, or segments of them in strips such as row/8": read_whole,\n',
        '    "row, column, or segments of them in strips such as row/8": read_whole,\n    "row_pair": '
        '__import__("hf_sparse.sparsity.patterns.row_pair", fromlist=["x"]).read_row_pair,\n',
    )
    found = train_with(
        tmp_path,
        "sparsity/patterns/row_pair.py",
        PATTERN,
        "sparsity/patterns/__init__.py",
        line,
        "sparsity.pattern=row_pair",
        "sparsity.schedule.final=0.5",
    )
    assert found["sparsity"] == 0.5
    assert sorted(found["zero rows"]) == [0] * 8 + [2] * 8
