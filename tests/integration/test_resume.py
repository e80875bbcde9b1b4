"""Interrupted runs, which end as if nothing had happened."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.checkpoint.sidecar import SIDECAR, read_state, write_state
from tests.support.runs import (
    Cut,
    checkpoint,
    differences,
    distil,
    distil_hidden,
    lasso,
    lasso_by_gradient,
    lock,
    mlm,
    move,
    outcome,
    prune,
    prune_little,
    quantize,
    revive,
    unlisted,
)
from tests.support.tiny import arguments, bert, pruning, sentences

LENGTH = 8


@pytest.mark.parametrize(
    ("run", "steps", "changes"),
    [
        # In the ramp, at its end, after it; 4 and 8 are ends of epochs.
        (prune, (2, 4, 6, 7, 8), {"dataloader_num_workers": 2}),
        (prune_little, (1, 3), {}),
        # In the ramp, between its end and the last update, after that.
        (revive, (4, 7, 9, 10), {}),
        (distil, (3, 8), {"lr_scheduler_type": "cosine"}),
        (distil_hidden, (3, 8), {}),
        # Before rounding begins, while ranges move, after they froze.
        (quantize, (1, 4, 11), {}),
        # While the penalty acts, at the hard step, after it.
        (lasso, (1, 4, 6, 7, 8), {}),
        (lasso_by_gradient, (1, 4, 7, 8), {}),
        # While scores are drawn down, while they are learned, after that.
        (move, (1, 4, 7, 9, 10), {}),
        (lock, (3, 8), {}),
        (mlm, (3, 8), {"warmup_steps": 2}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_run_resumed_from_any_checkpoint_ends_bit_for_bit_like_a_straight_one(
    run, steps: tuple[int, ...], changes: dict[str, Any], tmp_path: Path
) -> None:
    straight = run(tmp_path, save_strategy="steps", save_steps=1, **changes)
    straight.train()
    for step in steps:
        resumed = run(tmp_path / f"from_{step}", **changes)
        resumed.train(resume_from_checkpoint=str(checkpoint(tmp_path, step)))
        assert list(differences(outcome(straight), outcome(resumed))) == []


def test_an_interrupted_trainer_can_go_on_itself(tmp_path: Path) -> None:
    """As in a notebook, where one object is told to train again; its log must not hold the lost half step."""
    straight = distil(tmp_path / "straight")
    straight.train()
    trainer = distil(tmp_path, save_strategy="steps", save_steps=2, callbacks=[Cut(5)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(Cut)
    trainer.train(resume_from_checkpoint=True)
    ours, theirs = outcome(straight), outcome(trainer)
    # Trainer itself counts the operations of the lost half step.
    ours["log"][-1].pop("total_flos"), theirs["log"][-1].pop("total_flos")
    assert list(differences(ours, theirs)) == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the middle of the ramp of a run of 8 steps."""
    folder = tmp_path_factory.mktemp("saved")
    short(folder, save_strategy="steps", save_steps=3).train()
    return checkpoint(folder, 3)


def short(folder: Path, recipe: Recipe | None = None, allow_schedule_change: bool = False, **changes: Any):
    settings = {"max_steps": LENGTH} | changes
    return SparseTrainer(
        bert(),
        arguments(folder, **settings),
        train_dataset=sentences(),
        recipe=pruning() if recipe is None else recipe,
        allow_schedule_change=allow_schedule_change,
    )


def steps_of(trainer: SparseTrainer) -> list[int]:
    """Return a list that fills with the steps the trainer takes."""
    steps = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs) -> None:
            steps.append(state.global_step)

    trainer.add_callback(Watch())
    return steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"recipe": pruning("sparsity.schedule.final=0.8")},
            r"schedule.final was 0.9, is 0.8.*allow_schedule",
        ),
        ({"recipe": pruning("sparsity.schedule.every=2")}, r"schedule.every was 1, is 2"),
        ({"recipe": pruning("sparsity.pattern=4x1")}, r"sparsity.pattern was 'unstructured', is '4x1'"),
        ({"recipe": Recipe()}, r"sparsity was set, is unset"),
        ({"recipe": Recipe(), "allow_schedule_change": True}, r"sparsity was set.*never change"),
        (
            {"recipe": pruning("sparsity.pattern=4x1"), "allow_schedule_change": True},
            r"sparsity.pattern was.*never change",
        ),
        ({"max_steps": LENGTH + 1}, r"belongs to a run of 8 steps, this run has 9"),
    ],
    ids=["final", "every", "pattern", "empty", "empty allowed", "pattern allowed", "length"],
)
def test_a_changed_run_is_refused_before_the_first_step(
    changes: dict[str, Any], message: str, saved: Path, tmp_path: Path
) -> None:
    trainer = short(tmp_path, **changes)
    steps = steps_of(trainer)
    with pytest.raises(ValueError, match=message):
        trainer.train(resume_from_checkpoint=str(saved))
    assert steps == []


@pytest.mark.parametrize(
    "changes",
    [
        {"max_steps": 24},
        {"recipe": pruning("sparsity.schedule.ramp_end=75%", "sparsity.schedule.final=0.89")},
        {"recipe": pruning("sparsity.schedule.begin=5", "sparsity.schedule.ramp_end=6")},
    ],
    ids=["three times as long", "slower", "later"],
)
def test_an_allowed_change_never_gives_weights_back(
    changes: dict[str, Any], saved: Path, tmp_path: Path
) -> None:
    trainer = short(tmp_path, allow_schedule_change=True, **changes)
    before = trainer_zeros(saved)
    trainer.train(resume_from_checkpoint=str(saved))
    shares = [line["sparsity"] for line in trainer.state.log_history if "sparsity" in line]
    assert shares == sorted(shares)
    final = changes.get("recipe", pruning()).sparsity.schedule.final
    assert shares[-1] == pytest.approx(final, abs=1e-3)
    for name, removed in before.items():
        assert not trainer.model.state_dict()[name][removed].any()


def trainer_zeros(folder: Path) -> dict[str, torch.Tensor]:
    """Return where the sidecar of a checkpoint says that weights are removed."""
    trainer = short(folder / "unused")
    trainer.train(resume_from_checkpoint=str(folder))
    masks = trainer.sparsifier.masks
    masks.unpack(read_state(folder).masks)
    return {name: ~masks[name] for name in masks.targets.names}


def test_a_final_sparsity_below_the_one_reached_is_refused(saved: Path, tmp_path: Path) -> None:
    trainer = short(tmp_path, pruning("sparsity.schedule.final=0.5"), allow_schedule_change=True)
    with pytest.raises(
        ValueError, match=r"are zero already, more than the \d+ that final sparsity 0.5 removes"
    ):
        trainer.train(resume_from_checkpoint=str(saved))


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (lambda path: path.unlink(), FileNotFoundError, r"hf_sparse_state.safetensors does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), ValueError, r"is damaged"),
        (lambda path: path.write_bytes(b""), ValueError, r"is damaged"),
        (lambda path: flip(path, -200), ValueError, r"is damaged \(it does not match its digest\)"),
    ],
    ids=["missing", "truncated", "empty", "one bit flipped"],
)
def test_a_damaged_sidecar_is_refused_before_the_first_step(
    damage, kind: type[Exception], message: str, saved: Path, tmp_path: Path
) -> None:
    folder = tmp_path / saved.name
    shutil.copytree(saved, folder)
    unlisted(folder)
    damage(folder / SIDECAR)
    trainer = short(tmp_path)
    steps = steps_of(trainer)
    with pytest.raises(kind, match=message):
        trainer.train(resume_from_checkpoint=True)
    assert steps == []


def flip(path: Path, index: int) -> None:
    content = bytearray(path.read_bytes())
    content[index] ^= 1
    path.write_bytes(content)


def test_weights_that_do_not_belong_to_the_masks_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / saved.name
    shutil.copytree(saved, folder)
    unlisted(folder)
    bert().save_pretrained(folder)
    with pytest.raises(ValueError, match=r"saved with other weights: model.safetensors beside it is another"):
        short(tmp_path).train(resume_from_checkpoint=True)
    # As releases wrote it that knew of no hashes.
    write_state(folder, read_state(folder))
    with pytest.raises(RuntimeError, match="weights and masks belong to different steps"):
        short(tmp_path).train(resume_from_checkpoint=True)


STOCK_LOAD = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_sparse":
            raise ImportError("hf_sparse is not installed here")

sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
base = AutoModel.from_pretrained(sys.argv[1])
for name, value in model.state_dict().items():
    if name.startswith("bert.") and "pooler" not in name:
        assert torch.equal(value, base.state_dict()[name.removeprefix("bert.")]), name
torch.save(model.state_dict(), sys.argv[2])
assert "hf_sparse" not in sys.modules
"""


def test_a_checkpoint_loads_without_the_package_with_its_zeros(saved: Path, tmp_path: Path) -> None:
    loaded = tmp_path / "loaded.pt"
    command = [sys.executable, "-c", STOCK_LOAD, str(saved), str(loaded)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    weights = torch.load(loaded)
    for name, removed in trainer_zeros(saved).items():
        assert removed.float().mean() == pytest.approx(0.886, abs=0.02)
        assert torch.equal(weights[name] == 0, removed)


@pytest.mark.parametrize("run", [prune, distil])
def test_a_run_that_has_had_its_last_step_takes_no_more(run, tmp_path: Path) -> None:
    """As when it was killed before its model was written; here the last step is not that of an epoch."""
    straight = run(tmp_path, save_strategy="steps", save_steps=1, max_steps=7)
    straight.train()
    resumed = run(tmp_path / "resumed", max_steps=7)
    resumed.train(resume_from_checkpoint=str(checkpoint(tmp_path, 7)))
    assert resumed.state.global_step == 7
    assert list(differences(outcome(straight), outcome(resumed))) == []
