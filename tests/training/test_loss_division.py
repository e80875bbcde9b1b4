"""Under every rule for dividing the loss, the gradient is that of the whole batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel, Trainer

from hf_sparse import Recipe, SparseTrainer, SparseTrainerMixin
from tests.support.featured import gradients
from tests.support.lessons import LESSONS, Gradients
from tests.support.tiny import arguments

CUTS = [(4, 2), (2, 4), (3, 3)]
TAUGHT = Recipe.from_dict({"distillation": {"task": 0.3, "logits": 0.7}})
CLASSES = LESSONS["classification"]


class Scaling(Trainer):
    """A Trainer whose loss divides by the count that it is given, and declares it."""

    loss_is_scaled_for_ga = True

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        loss = cross_entropy(outputs.logits, inputs["labels"], reduction="sum") / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


class Averaging(Scaling):
    """A Trainer whose loss is the mean over a micro-batch, for Trainer to divide."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, *args: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        return super().compute_loss(*args, num_items_in_batch=len(args[1]["labels"]), **kwargs)


class SparseScaling(SparseTrainerMixin, Scaling):
    """Both with a teacher."""


class SparseAveraging(SparseTrainerMixin, Averaging):
    """The same."""


def weighted(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    weights = torch.tensor([1.0, 3.0])
    return cross_entropy(outputs.logits, labels, weight=weights, reduction="sum") / num_items_in_batch


def trainer(
    folder: Path, cut: tuple[int, int], lesson: Any = CLASSES, kind: type = SparseTrainer, **parts: Any
) -> SparseTrainer:
    args = arguments(
        folder,
        per_device_train_batch_size=cut[0],
        gradient_accumulation_steps=cut[1],
        num_train_epochs=1,
        max_steps=-1,
        max_grad_norm=0.0,
    )
    model = parts.pop("model", None) or lesson.make(0)
    rows = lesson.rows(8)
    run = kind(model, args, train_dataset=rows, eval_dataset=rows, callbacks=[Gradients()], **parts)
    run.train()
    return run


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    scale = max(value.abs().max().item() for value in other.values())
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=2e-5 * scale, msg=name)


@pytest.mark.parametrize("kind", [SparseScaling, SparseAveraging])
def test_the_gradient_is_one_in_a_trainer_that_says_who_divides(kind: type, tmp_path: Path) -> None:
    def step(cut: tuple[int, int], task: str) -> dict[str, Tensor]:
        recipe = TAUGHT.override([f"distillation.task={task}"])
        return gradients(trainer(tmp_path, cut, kind=kind, recipe=recipe, teacher=CLASSES.make(1)))

    whole = step((8, 1), "0.3")
    for cut in CUTS:
        assert_close(step(cut, "0.3"), whole)


def test_next_to_no_teacher_leaves_the_gradient_of_a_trainer_that_scales(tmp_path: Path) -> None:
    recipe = TAUGHT.override(["distillation.task=1", "distillation.logits=1e-12"])
    ours = trainer(tmp_path, (2, 4), kind=SparseScaling, recipe=recipe, teacher=CLASSES.make(1))
    assert_close(gradients(ours), gradients(trainer(tmp_path, (2, 4), kind=Scaling)))
    stock = Scaling(ours.model, ours.args, eval_dataset=CLASSES.rows(8))
    assert ours.evaluate()["eval_loss"] == stock.evaluate()["eval_loss"]


def test_a_loss_function_that_divides_by_the_count_is_given_one(tmp_path: Path) -> None:
    """With next to no weight on the teacher, the gradient is that of Trainer."""
    parts = {"recipe": TAUGHT, "teacher": CLASSES.make(1), "compute_loss_func": weighted}
    whole = gradients(trainer(tmp_path, (8, 1), **parts))
    alone = parts | {"recipe": TAUGHT.override(["distillation.task=1", "distillation.logits=1e-12"])}
    stock = gradients(trainer(tmp_path, (8, 1), kind=Trainer, compute_loss_func=weighted))
    for cut in CUTS:
        assert_close(gradients(trainer(tmp_path, cut, **parts)), whole)
        run = trainer(tmp_path, cut, **alone)
        assert_close(gradients(run), stock)
        assert run.compute_loss_func is weighted


def test_evaluation_gives_a_loss_function_what_trainer_does(tmp_path: Path) -> None:
    seen: list[int] = []

    def counting(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
        seen.append(int(num_items_in_batch))
        return weighted(outputs, labels, num_items_in_batch)

    parts = {"recipe": TAUGHT, "teacher": CLASSES.make(1), "compute_loss_func": counting}
    run = trainer(tmp_path, (8, 1), **parts)
    found = run.evaluate()["eval_loss"]
    ours = seen[1:]
    stock = Trainer(run.model, run.args, eval_dataset=CLASSES.rows(8), compute_loss_func=counting)
    assert found == stock.evaluate()["eval_loss"]
    assert seen[0] == 8 and ours == seen[1 + len(ours) :]


class Mine(LlamaForCausalLM):
    """A causal model without CausalLM in its name."""


def derived(seed: int) -> PreTrainedModel:
    model = LESSONS["causal"].make(seed)
    model.__class__ = Mine
    return model


def adapted(seed: int) -> nn.Module:
    return get_peft_model(
        LESSONS["causal"].make(seed),
        LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False),
    )


@pytest.mark.parametrize("make", [derived, adapted])
def test_labels_are_counted_as_a_causal_model_of_any_name_counts_them(make: Any, tmp_path: Path) -> None:
    """The first label of these rows is valid, but shifted out of the loss."""
    lesson = LESSONS["causal"]

    def step(cut: tuple[int, int]) -> SparseTrainer:
        torch.manual_seed(0)
        return trainer(tmp_path, cut, lesson, model=make(0), recipe=TAUGHT, teacher=lesson.make(1))

    whole = step((8, 1))
    for cut in CUTS:
        pieces = step(cut)
        assert_close(gradients(pieces), gradients(whole))
        assert pieces.state.log_history[0]["loss_task"] == pytest.approx(
            whole.state.log_history[0]["loss_task"], rel=1e-5
        )


def test_an_empty_recipe_equals_a_trainer_that_scales_bit_for_bit(tmp_path: Path) -> None:
    ours, stock = (trainer(tmp_path, (2, 4), kind=kind) for kind in (SparseScaling, Scaling))
    state = stock.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in ours.model.state_dict().items())
