"""CrossEncoderTrainer of sentence-transformers with the mixin: prunes, resumes, distils, quantizes, loads."""

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, MSELoss

from hf_sparse import Recipe, SparseTrainerMixin
from hf_sparse.checkpoint.load import load_model
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.support import small


class SparseCrossEncoderTrainer(SparseTrainerMixin, CrossEncoderTrainer):
    """The class that the guide shows."""


def trainer_of(
    folder: Path, recipe: Recipe = small.RECIPE, loss: type = BinaryCrossEntropyLoss, **parts: Any
) -> SparseCrossEncoderTrainer:
    data = parts.pop("train_dataset", small.pairs())
    args = CrossEncoderTrainingArguments(str(folder / "out"), **small.ARGUMENTS | parts)
    model = CrossEncoder(small.saved_classifier(folder / "base"), device="cpu")
    return SparseCrossEncoderTrainer(model, args, train_dataset=data, loss=loss(model), recipe=recipe)


def predict(model: CrossEncoder) -> torch.Tensor:
    return model.predict([(small.text(number), small.text(9)) for number in range(6)], convert_to_tensor=True)


def test_it_trains_and_resumes_exactly_and_its_checkpoints_load(tmp_path: Path) -> None:
    whole = trainer_of(tmp_path)
    whole.train()
    loaded = CrossEncoder(str(tmp_path / "out" / "checkpoint-6"), device="cpu")
    assert small.sparsity_of(loaded) == 0.8 and torch.equal(predict(loaded), predict(whole.model))
    rest = trainer_of(tmp_path)
    rest.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert small.same(whole.model, rest.model)


def test_it_learns_the_scores_of_a_teacher(tmp_path: Path) -> None:
    teacher = CrossEncoder(small.saved_classifier(tmp_path / "teacher", seed=1), device="cpu")
    data = small.pairs().remove_columns("score")
    texts = list(zip(data["sentence1"], data["sentence2"], strict=True))
    data = data.add_column("label", teacher.predict(texts).tolist())
    trainer = trainer_of(tmp_path, loss=MSELoss, train_dataset=data, max_steps=30, save_strategy="no")
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] and small.sparsity_of(trainer.model) == 0.8


def test_eight_bits_are_there_again_when_it_is_loaded(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, small.RECIPE.override(["quantization.weights=int8_per_channel"]))
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    loaded = load_model(str(tmp_path / "final"))
    assert len(quantized_layers(loaded)) == 6
    ids = torch.arange(5, 11)[None]
    assert torch.equal(loaded(ids).logits, trainer.model[0].model.eval()(ids).logits)
