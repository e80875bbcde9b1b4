"""Trainers of sentence-transformers with the mixin: prune, resume, distil, quantize, evaluate, load again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss, MSELoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoModel

from hf_sparse import Recipe, SparseTrainerMixin
from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.packed.hf_quantizer import SUPPORTED
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.support import small

EIGHT_BITS = small.RECIPE.override(["quantization.weights=int8_per_channel"])


class SparseSentenceTransformerTrainer(SparseTrainerMixin, SentenceTransformerTrainer):
    """The class that the guide shows."""


def embedder(folder: Path, seed: int = 0) -> SentenceTransformer:
    encoder = Transformer(small.saved_bert(folder, seed=seed))
    pooling = Pooling(encoder.get_embedding_dimension(), pooling_mode="cls")
    return SentenceTransformer(modules=[encoder, pooling], device="cpu")


def trainer_of(folder: Path, recipe: Recipe = small.RECIPE, **parts: Any) -> SparseSentenceTransformerTrainer:
    given = {name: parts.pop(name) for name in ("evaluator", "train_dataset") if name in parts}
    args = SentenceTransformerTrainingArguments(str(folder / "out"), **small.ARGUMENTS | parts)
    model = embedder(folder / "base")
    loss = CosineSimilarityLoss(model) if "train_dataset" not in given else MSELoss(model)
    data = {"train_dataset": small.pairs()} | given
    return SparseSentenceTransformerTrainer(model, args, loss=loss, recipe=recipe, **data)


def encode(model: SentenceTransformer) -> torch.Tensor:
    return model.encode([small.text(number) for number in range(6)], convert_to_tensor=True)


def test_it_trains_and_its_checkpoints_load(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.train()
    loaded = SentenceTransformer(str(tmp_path / "out" / "checkpoint-6"), device="cpu")
    assert small.sparsity_of(loaded) == 0.8 and torch.equal(encode(loaded), encode(trainer.model))


def test_it_resumes_exactly(tmp_path: Path) -> None:
    whole = trainer_of(tmp_path)
    whole.train()
    rest = trainer_of(tmp_path)
    rest.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert small.same(whole.model, rest.model)


def test_it_learns_the_embeddings_of_a_teacher(tmp_path: Path) -> None:
    teacher, data = embedder(tmp_path / "teacher", seed=1), small.texts()
    data = data.add_column("label", teacher.encode(data["text"]).tolist())
    trainer = trainer_of(tmp_path, train_dataset=data, max_steps=30, save_strategy="no")
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] and small.sparsity_of(trainer.model) == 0.8


def test_its_best_model_is_one_of_final_sparsity_by_its_evaluator(tmp_path: Path) -> None:
    rows = small.pairs(12)
    evaluator = EmbeddingSimilarityEvaluator(
        rows["sentence1"], rows["sentence2"], rows["score"], name="alike", write_csv=False
    )
    trainer = trainer_of(
        tmp_path,
        evaluator=evaluator,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_alike_spearman_cosine",
    )
    trainer.train()
    scores = {
        line["step"]: line for line in trainer.state.log_history if "eval_alike_spearman_cosine" in line
    }
    best = trainer.state.best_global_step
    assert set(scores) == set(range(1, 7)) and best >= 3
    assert small.sparsity_of(trainer.model) == 0.8
    again = trainer.evaluate()
    assert again["eval_alike_spearman_cosine"] == pytest.approx(
        scores[best]["eval_alike_spearman_cosine"], abs=1e-6
    )


def test_eight_bits_are_there_again_when_it_is_loaded(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, EIGHT_BITS)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    plain, loaded = AutoModel.from_pretrained(tmp_path / "final"), load_model(str(tmp_path / "final"))
    assert len(quantized_layers(loaded)) == 6
    ids = torch.arange(5, 11)[None]
    held = trainer.model[0].model.eval()
    assert torch.equal(loaded(ids).last_hidden_state, held(ids).last_hidden_state)
    assert not torch.equal(plain(ids).last_hidden_state, held(ids).last_hidden_state)


@pytest.mark.skipif(not SUPPORTED, reason="transformers before 5.23 lacks the hooks")
def test_its_directory_is_packed_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    from tests.cli.commands import lines

    trainer = trainer_of(tmp_path, EIGHT_BITS)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    lines("pack", tmp_path / "final", tmp_path / "packed", "--format", "packed")
    packed = SentenceTransformer(str(tmp_path / "packed"), device="cpu")
    torch.testing.assert_close(encode(packed), encode(trainer.model), rtol=1e-4, atol=1e-5)
