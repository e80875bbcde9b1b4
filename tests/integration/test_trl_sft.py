"""TRL's SFTTrainer with the mixin: prunes, resumes, distils, quantizes; its checkpoints load."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainingArguments, default_data_collator
from trl import SFTConfig, SFTTrainer

from hf_sparse import Recipe, SparseTrainer, SparseTrainerMixin
from hf_sparse.checkpoint.load import load_model
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.support import small


class SparseSFTTrainer(SparseTrainerMixin, SFTTrainer):
    """The class that the guide shows."""


def trainer_of(folder: Path, recipe: Recipe = small.RECIPE, **parts: Any) -> SparseSFTTrainer:
    given = {name: parts.pop(name) for name in ("teacher",) if name in parts}
    args = SFTConfig(str(folder), **small.ARGUMENTS | parts)
    return SparseSFTTrainer(
        small.llama(),
        args,
        train_dataset=small.texts(),
        processing_class=small.words(),
        recipe=recipe,
        **given,
    )


def test_it_trains_and_its_checkpoints_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hf_sparse"):
        trainer = trainer_of(tmp_path)
        trainer.train()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-6")
    assert small.sparsity_of(loaded) == 0.8 and small.same(loaded, trainer.model)
    # It asks for a card at every checkpoint, before there is a model for one.
    assert caplog.text.count("No card is written for now") == 1
    trainer.save_model()
    trainer.create_model_card(model_name="mine")
    assert "sparse" in (tmp_path / "README.md").read_text()


def test_it_resumes_exactly(tmp_path: Path) -> None:
    whole = trainer_of(tmp_path)
    whole.train()
    rest = trainer_of(tmp_path)
    rest.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert small.same(whole.model, rest.model)


def test_it_quantizes(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, small.RECIPE.override(["quantization.weights=int8_per_channel"]))
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    loaded = load_model(str(tmp_path / "final"))
    ids = torch.arange(5, 11)[None]
    assert len(quantized_layers(loaded)) == 7
    assert torch.equal(loaded(ids).logits, trainer.model.eval()(ids).logits)


@pytest.mark.parametrize("terms", [["logits=1.0"], ["logits=0.0", "hidden.weight=1.0"]])
def test_its_teacher_teaches_as_that_of_trainer_does(tmp_path: Path, terms: list[str]) -> None:
    recipe = Recipe().override([f"distillation.{term}" for term in ["task=0.5", *terms]])
    settings = {
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 2,
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 1.0,
        "max_grad_norm": 0.0,
        "save_strategy": "no",
    }
    ours = trainer_of(tmp_path, recipe, teacher=small.llama(1), **settings)
    batches = list(ours.get_train_dataloader())[:2]
    ours.train()
    rows = [
        {name: batch[name][row] for name in ("input_ids", "attention_mask", "labels")}
        for batch in batches
        for row in range(2)
    ]
    length = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    rows = [
        {
            name: torch.nn.functional.pad(value, (0, length - len(value)), value=fill[name])
            for name, value in row.items()
        }
        for row in rows
    ]
    args = TrainingArguments(
        str(tmp_path / "plain"), train_sampling_strategy="sequential", **small.ARGUMENTS | settings
    )
    theirs = SparseTrainer(
        small.llama(),
        args,
        train_dataset=rows,
        data_collator=default_data_collator,
        recipe=recipe,
        teacher=small.llama(1),
    )
    theirs.train()
    start, held = small.llama().state_dict(), theirs.model.state_dict()
    for name, weight in ours.model.state_dict().items():
        torch.testing.assert_close(weight - start[name], held[name] - start[name], rtol=1e-3, atol=1e-6)
