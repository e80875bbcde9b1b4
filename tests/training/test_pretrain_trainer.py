"""PreTrainingTrainer learns from texts that are not pairs, alone and from a teacher."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertForPreTraining, Trainer

from hf_sparse import Recipe
from hf_sparse.training.pretrain_trainer import PreTrainingTrainer
from tests.support.tiny import SIZES, arguments, texts

QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def model(seed: int = 0) -> BertForPreTraining:
    torch.manual_seed(seed)
    return BertForPreTraining(BertConfig(**SIZES, **QUIET))


def rows(*labels: int) -> list[dict[str, Tensor]]:
    pairs = zip(texts(len(labels)), labels, strict=True)
    return [row | {"next_sentence_label": torch.tensor(label)} for row, label in pairs]


def trained(folder: Path, data: list, kind: type[Trainer] = PreTrainingTrainer, **changes: Any) -> Trainer:
    given = {name: changes.pop(name) for name in ("recipe", "teacher") if name in changes}
    settings = {"num_train_epochs": 1, "max_steps": -1, "per_device_eval_batch_size": 2}
    args = arguments(folder, **(settings | changes))
    trainer = kind(model(), args, train_dataset=data, eval_dataset=data, **given)
    trainer.train()
    return trainer


def losses(trainer: Trainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_with_pairs_alone_it_is_a_plain_trainer(tmp_path: Path) -> None:
    data = rows(0, 1, 1, 0, 0, 1, 1, 1)
    ours, theirs = trained(tmp_path, data), trained(tmp_path, data, kind=Trainer)
    assert losses(ours) == losses(theirs)
    for name, weight in ours.model.state_dict().items():
        assert torch.equal(weight, theirs.model.state_dict()[name])


def test_a_batch_of_single_texts_learns_its_tokens_alone(tmp_path: Path) -> None:
    data = rows(-100, -100, -100, -100)
    trainer = trained(tmp_path, data)
    batch = {name: torch.stack([row[name] for row in data]) for name in data[0]}
    with torch.no_grad():
        logits = model()(batch["input_ids"], batch["attention_mask"]).prediction_logits
    expected = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    assert losses(trainer) == [pytest.approx(expected.item(), rel=1e-5)]
    weights = trainer.model.state_dict()
    assert all(weight.isfinite().all() for weight in weights.values())
    assert torch.equal(weights["cls.seq_relationship.weight"], model().cls.seq_relationship.weight)
    assert not torch.equal(weights["cls.predictions.bias"], model().cls.predictions.bias)


def test_a_batch_without_masked_tokens_learns_its_pairs_alone(tmp_path: Path) -> None:
    data = [row | {"labels": torch.full_like(row["labels"], -100)} for row in rows(0, 1, 1, -100)]
    trainer = trained(tmp_path, data)
    batch = {name: torch.stack([row[name] for row in data]) for name in data[0]}
    with torch.no_grad():
        logits = model()(batch["input_ids"], batch["attention_mask"]).seq_relationship_logits
    expected = functional.cross_entropy(logits, batch["next_sentence_label"])
    assert losses(trainer) == [pytest.approx(expected.item(), rel=1e-5)]


def test_evaluation_is_a_number_whatever_the_batches(tmp_path: Path) -> None:
    # Which Trainer itself would only leave out of its mean.
    trainer = trained(tmp_path, rows(0, 1, -100, -100), logging_nan_inf_filter=False)
    assert 0 < trainer.evaluate()["eval_loss"] < 20


def test_accumulated_losses_are_averaged(tmp_path: Path) -> None:
    trainer = trained(tmp_path, rows(-100, -100, 0, 1, 0, 1, -100, -100), gradient_accumulation_steps=2)
    assert 0 < losses(trainer)[0] < 1.5 * torch.log(torch.tensor(100.0)).item()


def test_from_a_teacher_any_cut_gives_the_same_weights(tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"distillation": {"temperature": 2.0, "task": 0.5, "logits": 0.5}})
    data = rows(0, -100, -100, -100, 1, -100, -100, -100)
    changes = {"optim": "sgd", "learning_rate": 0.1, "recipe": recipe}
    whole = trained(tmp_path, data, teacher=model(1), per_device_train_batch_size=8, **changes)
    for size in (2, 1):
        cut = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        other = trained(tmp_path, data, teacher=model(1), **cut, **changes)
        assert losses(other) == [pytest.approx(losses(whole)[0], rel=1e-5)]
        for name, weight in other.model.state_dict().items():
            torch.testing.assert_close(weight, whole.model.state_dict()[name], rtol=0, atol=1e-6)


def test_a_teacher_that_is_not_a_number_stays_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, seen = model(1), []
    teacher.cls.predictions.bias.data.fill_(torch.nan)
    recipe = Recipe.from_dict({"distillation": {"temperature": 2.0, "task": 0.5, "logits": 0.5}})
    changes = {"recipe": recipe, "teacher": teacher, "logging_nan_inf_filter": False}
    monkeypatch.setattr(Trainer, "log", lambda trainer, logs, *_: seen.append(logs))
    with pytest.raises(RuntimeError, match="holds NaN or infinite weights"):
        trained(tmp_path, rows(0, 1, -100, -100), **changes)
    assert math.isnan(seen[0]["loss"])
