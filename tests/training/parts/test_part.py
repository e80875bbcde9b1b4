"""The events that a part of a run hears, in a Trainer and in a callback, and what becomes of its answers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer

from hf_sparse import Recipe, SparseTrainer, SparsityCallback
from hf_sparse.checkpoint.sidecar import SavedState, read_state
from hf_sparse.training.parts.part import Run, RunPart
from tests.support.runs import checkpoint
from tests.support.tiny import arguments, bert, pruning, sentences

STEPS = 2
SAVING = {"max_steps": STEPS, "gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": STEPS}
EVENTS = [name for name, kind in vars(RunPart).items() if callable(kind) and not name.startswith("_")]


class Listening(RunPart):
    """Notes every event, with the step or what tells one call of it from another."""

    def __init__(self) -> None:
        self.heard: list[str] = []


def noted(name: str) -> Callable[..., Any]:
    def event(self: Listening, *args: Any, **kwargs: Any) -> Any:
        run = next((str(value.step) for value in args if isinstance(value, Run)), "")
        told = [str(value) for value in (*args, *kwargs.values()) if isinstance(value, bool)]
        self.heard.append(" ".join(filter(None, [name, run, *told])))
        return getattr(RunPart, name)(self, *args, **kwargs)

    return event


for _name in EVENTS:
    setattr(Listening, _name, noted(_name))


def micro_batch(step: int, last: bool) -> list[str]:
    return [f"before_forward {step} True", "wrap_loss", f"after_backward {step} {last}"]


def trainer(folder: Path, part: RunPart, **changes: Any) -> SparseTrainer:
    run = SparseTrainer(
        bert(),
        arguments(folder, **(SAVING | changes)),
        train_dataset=sentences(16),
        eval_dataset=sentences(4),
        # Sparsity is final after the first step.
        recipe=pruning(
            "sparsity.schedule={shape: one_shot, final: 0.5, begin: 1}", "sparsity.lr_rewind=false"
        ),
    )
    run.parts = [*run.parts, part]
    return run


def test_a_part_hears_every_event_of_a_trainer_in_order(tmp_path: Path) -> None:
    part = Listening()
    run = trainer(tmp_path, part)
    run.train()
    expected = ["columns", "join_optimizer", "adapt_scheduler False", "begin 0", "describe"]
    for step in range(STEPS):
        expected += [f"before_batch {step}", *micro_batch(step, False), *micro_batch(step, True)]
        expected += [f"before_step {step}", f"after_step {step}", f"step_end {step + 1}", "logs"]
    expected += [f"verify {STEPS}", f"record {STEPS}", "state", f"end {STEPS}"]
    assert part.heard == expected
    part.heard.clear()
    run.evaluate()
    run._determine_best_metric({"eval_loss": 1.0}, None)
    assert part.heard == [f"before_forward {STEPS} False", "model_inputs", "reached"]
    # Those two are for a Trainer that is made, and for a model_init.
    assert set(EVENTS) - {event.split()[0] for event in expected + part.heard} == {"check", "attach"}


def test_a_part_hears_the_same_events_of_a_callback_as_far_as_it_has_them(tmp_path: Path) -> None:
    callback, part = SparsityCallback(pruning("sparsity.lr_rewind=false")), Listening()
    callback.parts.append(part)
    args = arguments(tmp_path, **SAVING)
    Trainer(bert(), args, train_dataset=sentences(16), callbacks=[callback]).train()
    expected = ["begin 0", "describe"]
    for step in range(STEPS):
        expected += [f"after_backward {step} True", f"before_step {step}", f"after_step {step}"]
        expected += [f"step_end {step + 1}"]
    # What is saved is recorded first; saving may have been asked for after that, so once more.
    saving = [f"record {STEPS}", f"verify {STEPS}", "state", f"record {STEPS}"]
    assert part.heard == [*expected, *saving, f"record {STEPS}", f"end {STEPS}", f"record {STEPS}"]


class Adding(RunPart):
    """Adds to the loss that is reported, keeps a tensor in the sidecar."""

    added, begun, ended = 0.0, (), ()

    def begin(self, run: Run, saved: SavedState | None) -> None:
        self.begun = (run.step, saved and saved.extras["own"]["kept"].tolist())

    def after_backward(self, run: Run, last: bool) -> float:
        return self.added if last else 0.0

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        return {"own": {"kept": torch.tensor([1.0, 2.0])}}

    def logs(self) -> dict[str, float]:
        return {"own": 3.0}


def test_what_a_part_answers_is_logged_saved_and_given_back(tmp_path: Path) -> None:
    plain, part = Adding(), Adding()
    part.added = 4.0
    losses = []
    for folder, own in (("plain", plain), ("adding", part)):
        run = trainer(tmp_path / folder, own)
        run.train()
        losses.append(run.state.log_history[0]["loss"])
        assert run.state.log_history[0]["own"] == 3.0
    assert losses[1] == pytest.approx(losses[0] + 4.0, abs=1e-3)
    assert part.begun == (0, None)
    saved = checkpoint(tmp_path / "adding", STEPS)
    assert read_state(saved).extras["own"]["kept"].tolist() == [1.0, 2.0]
    resumed = Adding()
    trainer(tmp_path / "adding", resumed).train(resume_from_checkpoint=str(saved))
    assert resumed.begun == (STEPS, [1.0, 2.0])


def test_a_part_that_finds_a_fault_keeps_the_model_from_being_saved(tmp_path: Path) -> None:
    class Refusing(RunPart):
        def verify(self, run: Run) -> None:
            raise RuntimeError(f"a fault at step {run.step}")

    with pytest.raises(RuntimeError, match=f"a fault at step {STEPS}"):
        trainer(tmp_path, Refusing()).train()
    assert not checkpoint(tmp_path, STEPS).exists()


def test_best_models_are_compared_when_every_part_allows_it(tmp_path: Path) -> None:
    class Waiting(RunPart):
        def reached(self, step: int) -> bool:
            return step >= STEPS

    best = {
        "save_strategy": "best",
        "metric_for_best_model": "loss",
        "eval_strategy": "steps",
        "eval_steps": 1,
    }
    # Both models have the same loss, so the first that is compared is the best.
    run = trainer(tmp_path, Waiting(), learning_rate=0.0, **best)
    run.train()
    assert run.state.best_global_step == STEPS


def test_an_empty_recipe_has_no_parts(tmp_path: Path) -> None:
    run = SparseTrainer(bert(), arguments(tmp_path), train_dataset=sentences(8), recipe=Recipe())
    assert run.parts == [] and run.sparsifier is run.distiller is run.quantizer is None


def test_a_part_that_has_begun_is_saved_though_another_could_not_begin(tmp_path: Path) -> None:
    class Failing(RunPart):
        def begin(self, run: Run, saved: SavedState | None) -> None:
            raise ValueError("it cannot begin")

    run, own = trainer(tmp_path, Failing()), Adding()
    run.parts = [own, *run.parts]
    with pytest.raises(ValueError, match="it cannot begin"):
        run.train()
    run.save_model(str(tmp_path / "saved"))
    assert read_state(tmp_path / "saved").extras["own"]["kept"].tolist() == [1.0, 2.0]
