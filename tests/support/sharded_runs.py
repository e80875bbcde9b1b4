"""What processes that shard one model by accelerate's FSDP2 do in a group, and one process alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from hf_sparse import Recipe, SparseTrainer, prune
from tests.support.engines import let_accelerate_shard, refusal, sharded_arguments, whole_weights
from tests.support.tiny import arguments, bert, sentences

STATES = ("FULL_STATE_DICT", "SHARDED_STATE_DICT")
BATCH, STEPS = 8, 4
ALIKE = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

DISTILLED = Recipe.from_dict({"distillation": {"task": 0.3, "logits": 0.7}})
FEATURES = {
    "logits": DISTILLED,
    "hidden": DISTILLED.override(["distillation.hidden=0.5"]),
    "attention": DISTILLED.override(["distillation.attention=0.5"]),
    "relations": DISTILLED.override(["distillation.relations=0.5"]),
}
ROUNDED = {
    name: Recipe.from_dict({"quantization": {"observer": name, "freeze": 3}})
    for name in ("moving_average", "min_max")
}


def calm(seed: int = 0, **config: Any) -> Any:
    """A model without dropout, so that it matters little which process has which rows."""
    return bert(seed, **ALIKE, attn_implementation="eager", **config)


def losses(trainer: Trainer) -> list[dict[str, float]]:
    """Return every loss that was logged, by its name, step by step."""
    lines = [line for line in trainer.state.log_history if "loss" in line]
    return [{name: line[name] for name in line if name.startswith("loss")} for line in lines]


def files(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Check that losses and weights of two outcomes agree up to the order of sums."""
    for mine, expected in zip(ours["losses"], theirs["losses"], strict=True):
        assert mine == pytest.approx(expected, rel=2e-4, abs=1e-6)
    for name, values in theirs["weights"].items():
        torch.testing.assert_close(ours["weights"][name], values, rtol=0, atol=2e-4)


def run(kind: type, folder: Path, model: Any, args: Any, resume: Path | None = None, **parts: Any) -> Any:
    """Train; return the trainer."""
    trainer = kind(model, args, train_dataset=sentences(40), eval_dataset=sentences(8, seed=3), **parts)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return trainer


def outcome(trainer: Trainer) -> dict[str, Any]:
    """Return losses, weights and ranges of a run, all of them whole."""
    quantizer = getattr(trainer, "quantizer", None)
    return {
        "losses": losses(trainer),
        "weights": whole_weights(trainer.model),
        "ranges": {} if quantizer is None else quantizer.state(),
    }


def step_by_step(processes: int, **changes: Any) -> dict[str, Any]:
    """Return arguments of a run that reads the same rows at each step, whatever the number of processes."""
    rows = BATCH // processes
    return {
        "per_device_train_batch_size": rows,
        "per_device_eval_batch_size": rows,
        "max_steps": STEPS,
        **changes,
    }


def taught(folder: Path, args: Any) -> dict[str, Any]:
    """Distil by every term; return the outcomes by name."""
    return {
        name: outcome(run(SparseTrainer, folder, calm(), args(name), recipe=recipe, teacher=calm(seed=1)))
        for name, recipe in FEATURES.items()
    }


def rounded(folder: Path, args: Any) -> dict[str, Any]:
    """Train with rounded weights and inputs; return the outcomes by observer."""
    return {
        name: outcome(run(SparseTrainer, folder, calm(), args(name), recipe=recipe))
        for name, recipe in ROUNDED.items()
    }


def alone(folder: Path) -> dict[str, Any]:
    """Do in one process what several are compared with."""

    def args(name: str) -> Any:
        return arguments(folder / name, **step_by_step(1))

    return {"taught": taught(folder, args), "rounded": rounded(folder, args)}


def together(rank: int, folder: Path, processes: int) -> dict[str, Any]:
    """Do everything as one process of a group under accelerate's FSDP2."""
    let_accelerate_shard()

    def args(name: str, state: str = STATES[0], **changes: Any) -> Any:
        config = {"state_dict_type": state} | changes.pop("fsdp_config", {})
        return sharded_arguments(folder / name, **step_by_step(processes, fsdp_config=config, **changes))

    results: dict[str, Any] = {"taught": taught(folder, args), "rounded": rounded(folder, args)}
    saving = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    for state in STATES:
        # With an empty recipe, a Trainer.
        for kind in (Trainer, SparseTrainer):
            name = f"{kind.__name__}-{state}"
            trainer = run(kind, folder, bert(), args(name, state, **saving))
            trainer.save_model(str(folder / name / "final"))
            results[name] = outcome(trainer)
        # A recipe, and a run that goes on from its checkpoint.
        name = f"quantized-{state}"
        best = {"load_best_model_at_end": True, "save_total_limit": 2, "metric_for_best_model": "loss"}
        recipe = ROUNDED["moving_average"]
        for again, resume in (("", None), ("-resumed", folder / name / "checkpoint-2")):
            made = args(f"{name}{again}", state, **saving, **best)
            trainer = run(SparseTrainer, folder, bert(), made, resume, recipe=recipe)
            trainer.save_model(str(folder / f"{name}{again}" / "final"))
            results[f"{name}{again}"] = outcome(trainer)
    results["refused"] = refused(folder, args)
    for name, alone in (("read by one", True), ("read by all", False)):
        results[name] = first_reads(folder, args, alone)
    return results


def first_reads(folder: Path, args: Any, alone: bool) -> dict[str, Any]:
    """Distil a pruned student with weights that the first process has `alone`, or that all have."""
    made = args(f"first-{alone}", fsdp_config={"cpu_ram_efficient_loading": alone})
    student, teacher = calm(), calm(seed=1)
    prune(student, 0.6)
    if alone and torch.distributed.get_rank():
        # As transformers leaves what it does not read on the other processes: memory as it was, or none.
        for values in student.parameters():
            values.data.fill_(7.0)
        for module in teacher.modules():
            for name, values in module._parameters.items():
                module._parameters[name] = None if values is None else torch.nn.Parameter(values.to("meta"))
    trainer = run(SparseTrainer, folder, student, made, recipe=FEATURES["logits"], teacher=teacher)
    masks = {name: bytes(values.numpy()) for name, values in trainer.sparsifier.masks.pack().items()}
    return outcome(trainer) | {"teacher": whole_weights(trainer.distiller.teacher), "masks": masks}


def refused(folder: Path, args: Any) -> dict[str, str | None]:
    """Return the messages by which what is not supported is refused, before the first step."""
    pruned = Recipe.from_dict({"sparsity": {"schedule": {"final": 0.5}}})
    learned = pruned.override(["sparsity.method=movement"])
    wide = calm(seed=1, hidden_size=48)
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "offloaded": ({"cpu_offload": True}, {"recipe": pruned}),
        "offloaded, rounded": ({"cpu_offload": True}, {"recipe": ROUNDED["min_max"]}),
        "movement": ({}, {"recipe": learned}),
        "projections": ({}, {"recipe": FEATURES["hidden"], "teacher": wide}),
    }
    found = {}
    for name, (config, parts) in cases.items():
        made = args(f"refused-{name}", fsdp_config=config)
        found[name] = refusal(lambda made=made, parts=parts: SparseTrainer(calm(), made, **parts))
    return found
