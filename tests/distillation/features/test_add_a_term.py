"""A distillation term takes one file, a line in the registry and a field of the recipe: shown in a copy."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

TERM = '''"""Squared error between the mean embeddings of student and teacher."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hf_sparse.distillation.features.term import FeatureSettings, FeatureTerm, learnable
from hf_sparse.distillation.losses import LossTerm


def mean_embedding(outputs: Mapping[str, Any]) -> Tensor:
    """Return the mean embedding (batch, width) over all positions."""
    return outputs["hidden_states"][0].mean(1)


class Embedding(FeatureTerm):
    """Compares one vector for each sequence."""

    forward_options = {"output_hidden_states": True}

    def __init__(self, settings: FeatureSettings, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.scale = settings.scale

    def operations(self, tokens: int) -> float:
        return 1000.0

    def forward(
        self, student: Mapping[str, Any], teacher: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> list[LossTerm]:
        error = learnable(mean_embedding(student), "embedding") - mean_embedding(teacher)
        return [LossTerm(self.scale * error.square().mean(1).sum(), "sequences")]
'''
SETTINGS = '''class EmbeddingRecipe(FeatureRecipe):
    """Squared error of mean embeddings, times `scale`."""

    scale: Weight = 1.0


class DistillationRecipe(Part):
'''
TRAINING = """
import json, sys, torch
from hf_sparse import Recipe, SparseTrainer
from hf_sparse.planning.estimate import Batch, step_cost
from tests.support.tiny import arguments, bert, sentences

distillation = {"task": 0.0, "logits": 0.0, "embedding": {"weight": 3.0, "scale": 2.0}}
recipe = Recipe.from_dict({"distillation": distillation})
student, teacher = bert(), bert()
with torch.no_grad():
    for weight in teacher.parameters():
        weight.add_(0.1)
try:
    Recipe.from_dict({"distillation": {"task": 1.0, "logits": 0.0}})
except ValueError as error:
    refused = str(error)
before = student.bert.embeddings.word_embeddings.weight.detach().clone()
args = arguments(sys.argv[1], learning_rate=1e-3, max_steps=1, logging_steps=1)
trainer = SparseTrainer(
    model=student, args=args, train_dataset=sentences(), recipe=recipe, teacher=teacher
)
trainer.train()
row = trainer.state.log_history[0]
moved = student.bert.embeddings.word_embeddings.weight.detach() - before
cost = step_cost(student, None, trainer.distiller, Batch())
found = {"loss": row["loss"], "term": row["loss_embedding"], "moved": moved.abs().max().item()}
print(json.dumps(found | {"refused": refused, "cost": cost["embedding"]}))
"""


def add(text: str, before: str, after: str) -> str:
    assert text.count(before) == 1
    return text.replace(before, after)


def test_a_distillation_term_takes_a_file_a_line_and_a_field(tmp_path: Path) -> None:
    copy = tmp_path / "hf_sparse"
    shutil.copytree(ROOT / "hf_sparse", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "distillation/features/embedding.py").write_text(TERM)
    registry = copy / "distillation/features/__init__.py"
    line = '    "embedding": __import__(__name__ + ".embedding", fromlist=["x"]).Embedding,\n'
    registry.write_text(
        add(registry.read_text(), '    "hidden": Hidden,\n', '    "hidden": Hidden,\n' + line)
    )
    recipe = copy / "recipe/distillation.py"
    text = add(recipe.read_text(), "class DistillationRecipe(Part):\n", SETTINGS)
    field = "    embedding: Annotated[EmbeddingRecipe | None, BeforeValidator(_weight_alone)] = None\n"
    recipe.write_text(
        add(text, "    teacher: Annotated[str, one_of", f"{field}    teacher: Annotated[str, one_of")
    )
    run = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "", "HOME": str(tmp_path)},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["term"] > 0
    assert found["loss"] == pytest.approx(3 * found["term"], rel=1e-3)
    assert found["moved"] > 0
    # It states its own cost, and messages that list the terms name it.
    assert found["cost"] > 0
    assert "give a weight to logits, hidden, embedding, attention or relations" in found["refused"]
