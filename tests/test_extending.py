"""Adding a method or a pattern takes one file and one line: shown by doing it in a copy of the package."""

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
from tiny import arguments, bert, sentences
from hf_sparse import Recipe, SparseTrainer, find_targets, measure_sparsity

recipe = Recipe.preset("gmp_finetune").override(json.loads(sys.argv[2]))
model = bert()
before = {target.name: target.weight.detach().clone() for target in find_targets(model)}
args = arguments(sys.argv[1], learning_rate=0.0)
trainer = SparseTrainer(model=model, args=args, train_dataset=sentences(), recipe=recipe)
trainer.train()
trainer.save_model()
loaded = type(model).from_pretrained(sys.argv[1])
name, weight = next((target.name, target.weight.detach()) for target in find_targets(loaded))
gone = before[name].abs()[weight == 0]
print(json.dumps({"sparsity": measure_sparsity(loaded).overall,
                  "smallest gone": gone.min().item(), "largest kept": weight.abs().max().item(),
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
    helpers = Path(__file__).parent / "training"
    run = subprocess.run(
        [sys.executable, "-c", TRAINING, str(folder / "out"), json.dumps(overrides)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{helpers}", "PATH": "", "HOME": str(folder)},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_a_method_takes_one_file_and_one_line(tmp_path: Path) -> None:
    line = (
        '    "magnitude": magnitude,\n',
        '    "magnitude": magnitude,\n    "inverse": '
        '__import__("hf_sparse.sparsity.methods.inverse", fromlist=["x"]).inverse,\n',
    )
    found = train_with(
        tmp_path,
        "sparsity/methods/inverse.py",
        METHOD,
        "sparsity/methods/__init__.py",
        line,
        "sparsity.method=inverse",
        "sparsity.schedule.final=0.5",
    )
    assert found["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert found["smallest gone"] >= found["largest kept"]


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
