"""What a run needs and what its steps cost, before it runs."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from hf_sparse import Recipe, SparseTrainer, find_targets
from hf_sparse.planning.dry_run import DryRun
from hf_sparse.planning.estimate import Batch
from hf_sparse.planning.plan import make_plan
from tests.support.tiny import arguments, bert, pruning, sentences

STEPS = 12


def distilled(*assignments: str) -> Recipe:
    return Recipe.preset("prune_ofa_90").override(assignments)


def dry(recipe: Recipe, **settings: Any) -> DryRun:
    return make_plan(recipe, STEPS, **({"model": bert()} | settings)).dry_run


def test_memory_is_counted_in_bytes() -> None:
    model = bert()
    weights, targets = (
        sum(parameter.numel() for parameter in model.parameters()),
        sum(target.weight.numel() for target in find_targets(model)),
    )
    needed = dry(distilled("sparsity.revive=true"), model=model).memory
    assert needed == {
        "weights": 4 * weights,
        "gradients": 4 * weights,
        "optimizer state, AdamW": 8 * weights,
        "masks": targets // 8,
        "remembered values": 4 * targets,
        "teacher": 4 * weights,
    }


@pytest.mark.parametrize(
    "changes", [[], ["sparsity.revive=true"], ["sparsity.revive=true", "distillation={hidden: 1}"]]
)
def test_the_sidecar_of_a_real_run_is_no_larger_than_planned(tmp_path: Path, changes: list[str]) -> None:
    recipe = pruning(*changes)
    teacher = bert(hidden_size=64) if recipe.distillation else None
    args = arguments(tmp_path, max_steps=STEPS, save_strategy="steps", save_steps=8)
    SparseTrainer(model=bert(), args=args, train_dataset=sentences(), recipe=recipe, teacher=teacher).train()
    written = (tmp_path / "checkpoint-8" / "hf_sparse_state.safetensors").read_bytes()
    header = 8 + int.from_bytes(written[:8], "little")
    planned = dry(recipe, teacher=teacher).sidecar
    assert 0.5 * planned < len(written) - header <= planned


def test_a_teacher_costs_a_third_of_a_step_by_its_size() -> None:
    def cost(teacher: Any) -> float:
        return dry(distilled(), teacher=teacher).cost["teacher's forward pass"]

    assert cost(None) == cost(bert(seed=1)) == pytest.approx(1 / 3)
    assert cost(bert(num_hidden_layers=4)) == pytest.approx(2 / 3, rel=0.1)


def test_every_part_of_a_step_has_its_cost() -> None:
    recipe = distilled("distillation.hidden=1", "distillation.relations=1", "sparsity.revive=true")

    def cost(tokens: int) -> dict[str, float]:
        batch = Batch(rows=2, accumulation=2, tokens=tokens)
        return dry(recipe, teacher=bert(hidden_size=64), batch=batch).cost

    short, long = cost(16), cost(32)
    assert list(short) == [
        "teacher's forward pass",
        "projections to the teacher",
        "relations",
        "clearing of gradients",
        "removed weights that may return",
    ]
    assert long["relations"] == pytest.approx(2 * short["relations"])
    assert long["clearing of gradients"] == pytest.approx(short["clearing of gradients"] / 2)
    # A matrix of 64 x 32 for each of two layers.
    assert short["projections to the teacher"] == pytest.approx(2 * 64 * 32 / computing(bert()))


def test_relations_are_counted_by_their_products() -> None:
    found = dry(distilled("distillation.relations=1"))
    # 1 pair of layers, 3 kinds, 2 operations, 32 wide: three times in the student, once in the teacher.
    products = 3 * 2 * found.batch.tokens * 32 * 4
    assert found.cost["relations"] == pytest.approx(products / (6 * computing(bert())))


def computing(model: PreTrainedModel) -> int:
    """Parameters outside the embeddings."""
    embeddings = model.bert.embeddings
    tables = [embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings]
    return model.num_parameters() - sum(table.weight.numel() for table in tables)
