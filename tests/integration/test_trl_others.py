"""TRL's trainers of preferences and rewards, mixed in, train by a recipe and write checkpoints that load."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
)
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

from hf_sparse import Recipe, SparseTrainerMixin
from tests.support import small


class SparseDPOTrainer(SparseTrainerMixin, DPOTrainer):
    """Learns from preferences."""


class SparseRewardTrainer(SparseTrainerMixin, RewardTrainer):
    """Learns to score answers."""


class SparseGRPOTrainer(SparseTrainerMixin, GRPOTrainer):
    """Learns from rewards of its own texts."""


PREFERENCES = Dataset.from_dict(
    {
        "prompt": [small.text(number) for number in range(24)],
        "chosen": [f" {small.text(number + 1)}" for number in range(24)],
        "rejected": [f" {small.text(number + 2)}" for number in range(24)],
    }
)
SHORT = small.ARGUMENTS | {"max_steps": 4, "save_steps": 2}


def check(trainer: Any, folder: Path, kind: type) -> None:
    trainer.train()
    loaded = kind.from_pretrained(folder / "checkpoint-4")
    assert small.sparsity_of(loaded) == 0.8 and small.same(loaded, trainer.model)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert all((weight == before[name]).all() for name, weight in trainer.model.state_dict().items())


def test_dpo(tmp_path: Path) -> None:
    trainer = SparseDPOTrainer(
        small.llama(),
        small.llama(),
        args=DPOConfig(str(tmp_path), **SHORT),
        train_dataset=PREFERENCES,
        processing_class=small.words(),
        recipe=small.RECIPE,
    )
    check(trainer, tmp_path, AutoModelForCausalLM)


def test_reward(tmp_path: Path) -> None:
    args = RewardConfig(str(tmp_path), **SHORT)
    model = small.llama(kind=LlamaForSequenceClassification)
    trainer = SparseRewardTrainer(
        model, args=args, train_dataset=PREFERENCES, processing_class=small.words(), recipe=small.RECIPE
    )
    check(trainer, tmp_path, AutoModelForSequenceClassification)


def test_grpo(tmp_path: Path) -> None:
    args = GRPOConfig(str(tmp_path), **SHORT, num_generations=2, max_completion_length=4)

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(len(set(completion.split()))) for completion in completions]

    trainer = SparseGRPOTrainer(
        small.llama(),
        reward_funcs=reward,
        args=args,
        train_dataset=PREFERENCES.select_columns("prompt"),
        processing_class=small.words(),
        recipe=small.RECIPE,
    )
    trainer.train()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-4")
    assert small.sparsity_of(loaded) == 0.8 and small.same(loaded, trainer.model)


def test_a_teacher_teaches_beside_preferences(tmp_path: Path) -> None:
    trainer = SparseDPOTrainer(
        small.llama(),
        small.llama(),
        args=DPOConfig(
            str(tmp_path), **SHORT | {"max_steps": 12, "save_strategy": "no", "learning_rate": 0.01}
        ),
        train_dataset=PREFERENCES,
        processing_class=small.words(),
        recipe=Recipe().override(["distillation.task=0.0", "distillation.logits=1.0"]),
        teacher=small.llama(1),
    )
    trainer.train()
    losses = [line["loss_logits"] for line in trainer.state.log_history if "loss_logits" in line]
    assert losses[-1] < 0.9 * losses[0]
