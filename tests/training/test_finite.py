"""Weights that are NaN or infinite are found in training, and never saved or rounded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from hf_sparse import Recipe, SparseTrainer, SparsityCallback
from hf_sparse.oneshot.quantize_trained import calibration_recipe, quantize_trained
from hf_sparse.training.finite import not_finite
from tests.support.runs import distil, prune, quantize
from tests.support.tiny import arguments, bert, pruning, sentences

MAKERS = {"pruned": prune, "distilled": distil, "quantized": quantize}


class Spoil(TrainerCallback):
    """Writes a value into a weight after a step, as diverged training does."""

    def __init__(self, value: float, step: int) -> None:
        self.value, self.step = value, step

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        if state.global_step == self.step:
            model.classifier.bias.data[0] = self.value


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_run_that_has_diverged_ends_where_its_loss_is_logged(
    made: str, value: float, tmp_path: Path
) -> None:
    trainer = MAKERS[made](tmp_path)
    trainer.add_callback(Spoil(value, step=3))
    with pytest.raises(RuntimeError, match="classifier.bias holds NaN or infinite weights"):
        trainer.train()
    assert 3 <= trainer.state.global_step < trainer.state.max_steps


@pytest.mark.parametrize("made", MAKERS)
def test_such_weights_are_not_saved(made: str, tmp_path: Path) -> None:
    trainer = MAKERS[made](tmp_path / "run")
    trainer.train()
    trainer.model.classifier.bias.data[0] = torch.nan
    with pytest.raises(RuntimeError, match="training has diverged; go on from the last checkpoint"):
        trainer.save_model(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"save_strategy": "steps", "save_steps": 3}, {"save_strategy": "epoch"}])
def test_under_the_callback_they_are_not_saved_either(changes: dict[str, Any], tmp_path: Path) -> None:
    callbacks = [SparsityCallback(pruning("sparsity.lr_rewind=false")), Spoil(torch.nan, step=8)]
    trainer = Trainer(
        bert(), arguments(tmp_path, **changes), train_dataset=sentences(16), callbacks=callbacks
    )
    with pytest.raises(RuntimeError, match="holds NaN or infinite weights"):
        trainer.train()
    assert not {"checkpoint-9", "checkpoint-12"} & {path.name for path in tmp_path.iterdir()}


def test_an_empty_recipe_saves_what_a_plain_trainer_would(tmp_path: Path) -> None:
    trainer = SparseTrainer(
        model=bert(), args=arguments(tmp_path), train_dataset=sentences(), recipe=Recipe()
    )
    trainer.add_callback(Spoil(torch.nan, step=1))
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "model.safetensors").is_file()


def test_they_are_not_rounded_without_training_either() -> None:
    model = bert()
    model.bert.encoder.layer[0].output.dense.weight.data[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"layer.0.output.dense.weight .* cannot be rounded; take the model"):
        quantize_trained(model, [], calibration_recipe())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_weight_in_any_type_is_found(dtype: torch.dtype, value: float) -> None:
    model = nn.Linear(8, 4).to(dtype)
    # Finite, though their sum is not.
    model.weight.data.fill_(torch.finfo(dtype).max)
    assert not_finite(model) is None
    model.weight.data[3, 7] = value
    assert not_finite(model) == "weight"


def test_what_has_no_values_is_passed_over() -> None:
    assert not_finite(nn.Linear(0, 4)) is not_finite(nn.Linear(4, 4, device="meta")) is None


def test_parts_of_several_types_are_looked_at_together() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).bfloat16(), nn.Linear(4, 4).double())
    assert not_finite(model) is None
    model[1].bias.data[2] = torch.nan
    assert not_finite(model) == "1.bias"


def test_what_such_a_run_left_on_the_model_is_gone_after_the_next(tmp_path: Path) -> None:
    trainer = prune(tmp_path)
    trainer.add_callback(Spoil(torch.nan, step=3))
    with pytest.raises(RuntimeError, match="NaN or infinite weights"):
        trainer.train()
    trainer.remove_callback(Spoil)
    trainer.model.load_state_dict(bert().state_dict())
    trainer.train()
    assert not trainer.model._load_state_dict_pre_hooks


class Opaque(torch.Tensor):
    """A tensor subclass that does not support norms."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function is torch.linalg.vector_norm:
            raise NotImplementedError("no norm")
        return super().__torch_function__(function, types, args, kwargs or {})


def test_weights_of_other_kinds_that_do_not_train_are_not_asked() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight = nn.Parameter(torch.zeros(2, 2).as_subclass(Opaque), requires_grad=False)
    assert not_finite(model) is None
    model[1].bias.data[0] = torch.nan
    assert not_finite(model) == "1.bias"
