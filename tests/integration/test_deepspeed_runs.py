"""Runs under DeepSpeed ZeRO from their first look at a model to a resumed checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from hf_sparse import Recipe, find_targets
from hf_sparse.checkpoint.run_record import read_record
from hf_sparse.checkpoint.sidecar import SIDECAR, read_state
from hf_sparse.checkpoint.sparsity_record import read_sparsity_record
from hf_sparse.training.checkpoints.manifest import check_manifest
from tests.support.tiny import VOCABULARY, bert
from tests.support.zero import (
    EMPTY,
    LOGITS,
    MAGNITUDE,
    REVIVE,
    STAGES,
    WHOLE,
    config,
    held_by_deepspeed,
    result,
    run,
    run_together,
    trainer,
)

pytest.importorskip("deepspeed", reason="DeepSpeed is not among the pinned packages: make test-deepspeed")

ODD = {"hidden_size": 30, "intermediate_size": 35}


def gpt2() -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": VOCABULARY, "n_positions": 16}
    return GPT2ForSequenceClassification(GPT2Config(**sizes, pad_token_id=0))


def job(rank: int, folder: Path) -> dict[str, Any]:
    found: dict[Any, Any] = {("gpt2", None): run(folder / "gpt2", None, MAGNITUDE, model=gpt2())}
    for stage in (None, *STAGES):
        found["sooner", stage] = sooner(folder / f"sooner-{stage}", stage)
    if rank == 0:
        bert().save_pretrained(folder / "base")
    for stage in STAGES:
        case = WHOLE if stage == 3 else REVIVE
        place = folder / f"straight-{stage}"
        made = trainer(place, stage, case)
        made.train()
        made.save_model(str(folder / f"saved-{stage}"))
        found["straight", stage] = result(made, place) | {"held": held_by_deepspeed(made)}
        again = folder / f"again-{stage}"
        found["resumed", stage] = run(again, stage, case, resume=place / "checkpoint-4")
        found["other recipe", stage] = run(again, stage, MAGNITUDE, resume=place / "checkpoint-4")
        place = folder / f"bf16-{stage}"
        made = trainer(place, stage, WHOLE, bf16=True)
        made.train()
        found["bf16", stage] = result(made, place) | {"held": held_by_deepspeed(made)}
        found["gpt2", stage] = run(folder / f"gpt2-{stage}", stage, MAGNITUDE, model=gpt2())
        best = {"eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True}
        place = folder / f"best-{stage}"
        made = trainer(place, stage, MAGNITUDE, metric_for_best_model="loss", **best)
        made.train()
        found["best", stage] = made.state.best_model_checkpoint, held_by_deepspeed(made, states=())
    found["divided", 3] = divided(folder)
    return found


def sooner(folder: Path, stage: int | None) -> Any:
    """Resume in the middle of a ramp under a schedule whose ramp has ended by then."""
    later = ["sparsity.schedule.ramp_end=7", "sparsity.schedule.update_end=7"]
    run(folder / "begun", stage, MAGNITUDE, changed=later)
    middle = folder / "begun" / "checkpoint-4"
    given = {"changed": ["sparsity.schedule.ramp_end=4"], "allow_schedule_change": True}
    return run(folder / "again", stage, MAGNITUDE, resume=middle, **given)


def divided(folder: Path) -> dict[str, Any]:
    """Load a model while ZeRO-3 divides what is loaded; return outcomes and refusals."""
    ready = trainer(folder / "ready", 3, EMPTY)
    base = folder / "base"
    model = AutoModelForSequenceClassification.from_pretrained(base)
    shapes = {tuple(parameter.shape) for parameter in model.parameters()}
    found: dict[str, Any] = {
        "shapes": shapes,
        "magnitude": run(folder / "divided", 3, MAGNITUDE, model=model),
    }
    other = AutoModelForSequenceClassification.from_pretrained(base)
    found["teacher"] = run(folder / "divided-teacher", 3, LOGITS, teacher=other)
    del ready
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[Any, Any]]:
    return run_together(job, 2, folder)


def same(ours: dict[str, Any], theirs: dict[str, Any], *parts: str) -> bool:
    return all(
        ours[part].keys() == theirs[part].keys()
        and all(torch.equal(ours[part][name], value) for name, value in theirs[part].items())
        for part in parts
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(stage: int, ranks: list[Any]) -> None:
    for rank in ranks:
        assert same(rank["resumed", stage], rank["straight", stage], "weights", "masks", "ranges")
        assert rank["resumed", stage]["log"] == rank["straight", stage]["log"]


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_changed_schedule_removes_at_once_stays_zero(stage: int, ranks: list[Any]) -> None:
    for rank in ranks:
        ours, expected = rank["sooner", stage], ranks[0]["sooner", None]
        assert "refused" not in ours, ours
        assert same(ours, expected, "masks")
        for key, value in expected["weights"].items():
            torch.testing.assert_close(ours["weights"][key], value, rtol=0, atol=1e-4)
            assert torch.equal(ours["weights"][key] == 0, value == 0)


@pytest.mark.parametrize("stage", STAGES)
def test_another_recipe_does_not_resume(stage: int, ranks: list[Any]) -> None:
    for rank in ranks:
        assert "was written under another recipe" in rank["other recipe", stage]["refused"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["straight", "bf16"])
def test_removed_weights_are_zero_wherever_deepspeed_keeps_them(
    name: str, stage: int, ranks: list[Any]
) -> None:
    for rank in ranks:
        assert rank[name, stage]["held"] == {"copies": 0, "exp_avg": 0, "exp_avg_sq": 0}
        for target, mask in rank[name, stage]["masks"].items():
            assert not rank[name, stage]["weights"][target][~mask].any()
            assert int((~mask).sum()) == int(0.9 * mask.numel())


@pytest.mark.parametrize("stage", STAGES)
def test_processes_agree_in_half_precision(stage: int, ranks: list[Any]) -> None:
    first, second = (rank["bf16", stage] for rank in ranks)
    assert same(first, second, "weights", "masks", "ranges")
    assert all(ends.dtype == torch.float32 for ends in first["ranges"].values())


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_is_whole(stage: int, ranks: list[Any], folder: Path) -> None:
    checkpoint = folder / f"straight-{stage}" / "checkpoint-8"
    check_manifest(checkpoint)
    assert {"model.safetensors", SIDECAR, "latest", "global_step8"} <= {p.name for p in checkpoint.iterdir()}
    assert not (checkpoint.parent / "_saving").exists()
    assert read_state(checkpoint).step == 8
    assert read_record(checkpoint) is not None


@pytest.mark.parametrize("stage", STAGES)
def test_a_saved_model_is_that_of_stock_transformers(stage: int, ranks: list[Any], folder: Path) -> None:
    saved = folder / f"saved-{stage}"
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    assert read_sparsity_record(model).achieved == pytest.approx(0.9, abs=0.01)
    expected = load_file(folder / f"straight-{stage}" / "checkpoint-8" / "model.safetensors")
    for name, value in load_file(saved / "model.safetensors").items():
        assert torch.equal(value, expected[name])
    assert (saved / SIDECAR).is_file() and not (saved / "_saving").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_weights_that_are_stored_transposed_are_masked_alike(stage: int, ranks: list[Any]) -> None:
    for rank in ranks:
        for name, mask in ranks[0]["gpt2", None]["masks"].items():
            assert torch.equal(rank["gpt2", stage]["masks"][name], mask)


@pytest.mark.parametrize("stage", STAGES)
def test_the_best_model_has_its_zeros_again(stage: int, ranks: list[Any]) -> None:
    for rank in ranks:
        best, held = rank["best", stage]
        assert best.endswith(("checkpoint-4", "checkpoint-8")) and held["copies"] == 0


def test_a_model_that_is_divided_as_it_is_loaded_is_pruned_as_a_whole_one(ranks: list[Any]) -> None:
    for rank in ranks:
        found = rank["divided", 3]
        assert (0,) in found["shapes"]
        for name, (rows, columns) in find_targets(bert()).shapes.items():
            assert int((~found["magnitude"]["masks"][name]).sum()) == int(0.9 * rows * columns)


def test_a_teacher_that_is_divided_is_refused(ranks: list[Any]) -> None:
    for rank in ranks:
        assert "load the teacher before the TrainingArguments" in rank["divided", 3]["teacher"]["refused"]


def uneven(rank: int, folder: Path) -> dict[int | None, Any]:
    return {stage: run(folder / f"{stage}", stage, MAGNITUDE, model=bert(**ODD)) for stage in (None, *STAGES)}


def test_weights_that_processes_cannot_share_evenly_are_masked_alike(tmp_path: Path) -> None:
    for rank in run_together(uneven, 3, tmp_path):
        for stage in STAGES:
            for name, mask in rank[None]["masks"].items():
                assert torch.equal(rank[stage]["masks"][name], mask)


def settings(rank: int, folder: Path) -> dict[str, Any]:
    def attempt(
        name: str, recipe: Recipe, stage: int, zero: dict[str, Any] | None = None, **more: Any
    ) -> Any:
        given = config(stage, zero, **more.pop("engine", {}))
        return run(folder / name, stage, recipe, deepspeed=given, **more)

    unsaved = {"stage3_gather_16bit_weights_on_model_save": False}
    warmup = {"scheduler": {"type": "WarmupLR", "params": {}}}
    return {
        "stage 0": attempt("0", MAGNITUDE, 0),
        "unsaved": attempt("unsaved", MAGNITUDE, 3, unsaved),
        "unsaved empty": attempt("unsaved-empty", EMPTY, 3, {}),
        "offloaded": attempt("offloaded", MAGNITUDE, 3, {"offload_param": {"device": "cpu"}}),
        "scheduler": attempt("scheduler", MAGNITUDE, 2, engine=warmup),
        "optimizer": attempt("optimizer", MAGNITUDE, 2, optim="adafactor"),
        "states on the CPU": attempt("cpu", MAGNITUDE, 2, {"offload_optimizer": {"device": "cpu"}}),
    }


def test_settings_that_keep_weights_out_of_reach_are_refused(tmp_path: Path) -> None:
    for found in run_together(settings, 2, tmp_path):
        refused = {name: outcome.get("refused") for name, outcome in found.items()}
        assert "needs ZeRO stage 1, 2 or 3, got stage 0; set" in refused["stage 0"]
        assert "stage3_gather_16bit_weights_on_model_save is false" in refused["unsaved"]
        assert "offload_param.device=cpu; leave it out" in refused["offloaded"]
        assert "lr_rewind builds" in refused["scheduler"]
        assert "Adafactor may move removed weights off zero" in refused["optimizer"]
        assert refused["unsaved empty"] is refused["states on the CPU"] is None
        assert all(found[name]["steps"] == 0 for name, reason in refused.items() if reason)
