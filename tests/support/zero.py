"""Runs under DeepSpeed ZeRO on the CPU: what each of several processes does, and what it leaves."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers.training_args
from safetensors.torch import load_file
from torch import nn

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.oneshot.prune import prune
from tests.support.doomed import cheap_processes
from tests.support.tiny import arguments, bert, pruning, sentences

STAGES = (1, 2, 3)
STATES = ("exp_avg", "exp_avg_sq")
LIMIT_S = 1200
_HALF_WAY, _END = 4, 8
# What distillation of attention needs: its probabilities, as they are before dropout.
_ATTENTION: dict[str, Any] = {"attn_implementation": "eager", "attention_probs_dropout_prob": 0.0}

EMPTY = Recipe()
MAGNITUDE, REVIVE = pruning(), pruning("sparsity.revive=true")
LOGITS = Recipe.from_dict({"distillation": {"logits": 0.7, "task": 0.3}})
WHOLE = Recipe.from_dict({"quantization": {"begin": 2, "freeze": 4}}).model_copy(
    update={"sparsity": MAGNITUDE.sparsity, "distillation": LOGITS.distillation}
)


def config(stage: int, zero: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a configuration of DeepSpeed that keeps the optimizer of PyTorch."""
    divided = {
        "stage": stage,
        "stage3_gather_16bit_weights_on_model_save": True,
        # By default the weights of so small a model would stay whole.
        "stage3_param_persistence_threshold": 10,
    }
    auto = ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps")
    return {
        **dict.fromkeys((*auto, "gradient_clipping"), "auto"),
        "bf16": {"enabled": "auto"},
        "zero_optimization": divided | dict(zero or {}),
        "zero_force_ds_cpu_optimizer": False,
    } | changes


def trainer(
    folder: Path,
    stage: int | None,
    recipe: Recipe,
    model: nn.Module | None = None,
    deepspeed: dict[str, Any] | None = None,
    changed: Sequence[str] = (),
    width: int = 32,
    **changes: Any,
) -> SparseTrainer:
    """Return a trainer for eight steps with accumulation, dropout and shuffling; stage None is DDP.

    `width` is the hidden size of the teacher, if the recipe has one and none is given.
    """
    kwargs = {key: changes.pop(key) for key in ("teacher", "allow_schedule_change") if key in changes}
    engine = {"use_cpu": True} if stage is None else {"use_cpu": False, "deepspeed": config(stage)}
    if deepspeed is not None:
        engine["deepspeed"] = deepspeed
    settings = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": _END,
        "save_strategy": "steps",
        "save_steps": _HALF_WAY,
    }
    args = arguments(folder, **(settings | engine | changes))
    model = bert(**_ATTENTION) if model is None else model
    recipe = recipe.override(changed)
    if recipe.sparsity is not None and recipe.sparsity.method == "lock":
        prune(model, 0.6)
    if recipe.distillation is not None:
        kwargs.setdefault("teacher", bert(seed=1, hidden_size=width, **_ATTENTION))
    data = {"train_dataset": sentences(20), "eval_dataset": sentences(8)}
    return SparseTrainer(model, args, recipe=recipe, **data, **kwargs)


def result(made: SparseTrainer, folder: Path) -> dict[str, Any]:
    """Return what must be equal after equal runs: saved weights, masks, ranges, losses and norms."""
    lines = [line for line in made.state.log_history if "loss" in line]
    keys = ("loss", "grad_norm", "sparsity", "loss_logits", "loss_hidden", "loss_relations")
    return {
        "weights": load_file(folder / f"checkpoint-{made.state.max_steps}" / "model.safetensors"),
        "masks": {} if made.sparsifier is None else {n: made.sparsifier.masks[n] for n in masked(made)},
        "ranges": {} if made.quantizer is None else made.quantizer.state(),
        "log": [{key: line[key] for key in keys if key in line} for line in lines],
    }


def masked(made: SparseTrainer) -> list[str]:
    return [] if made.sparsifier is None else made.sparsifier.masks.targets.names


def run(folder: Path, stage: int | None, recipe: Recipe, resume: Path | None = None, **changes: Any) -> Any:
    """Train; return the outcome, or why it was refused, with the number of steps until then."""
    made = None
    try:
        made = trainer(folder, stage, recipe, **changes)
        made.train(resume_from_checkpoint=None if resume is None else str(resume))
    except ValueError as error:
        return {"refused": str(error), "steps": 0 if made is None else made.state.global_step}
    return result(made, folder)


def held_by_deepspeed(made: SparseTrainer, states: Sequence[str] = STATES) -> dict[str, int]:
    """Count entries that are not zero where weights are removed, in the optimizer's copies and states."""
    from deepspeed import utils

    found = {"copies": 0} | dict.fromkeys(states, 0)
    for target in made.sparsifier.masks.targets:
        removed = ~made.sparsifier.masks[target.name]
        copy = utils.safe_get_full_fp32_param(target.parameter)
        found["copies"] += int(target.view(copy.view(removed.shape))[removed].count_nonzero())
        for key in states:
            state = utils.safe_get_full_optimizer_state(target.parameter, key)
            found[key] += int(target.view(state.view(removed.shape))[removed].count_nonzero())
    return found


def let_accelerate_divide() -> None:
    """Let accelerate take this CPU for an accelerator, in this process: it has no DeepSpeed on a CPU."""
    import accelerate.state
    from accelerate.utils import DistributedType

    state: Any = accelerate.state.PartialState
    on_cpu = state._prepare_backend

    def prepare(self: Any, cpu: bool = False, *args: Any, **kwargs: Any) -> tuple[str, DistributedType]:
        return on_cpu(self, cpu, *args, **kwargs) if cpu else ("gloo", DistributedType.MULTI_GPU)

    state._prepare_backend = prepare
    # transformers asks a GPU whether it has bfloat16.
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    state.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


def run_together(job: Callable[[int, Path], Any], ranks: int, folder: Path) -> list[Any]:
    """Run `job(rank, folder)` in each process of a group; return the results, or raise `RuntimeError`."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = cheap_processes()
    processes = [
        context.Process(target=_work, args=(job, rank, ranks, port, folder)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT_S)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if codes != [0] * ranks:
        raise RuntimeError(f"the processes ended with exit codes {codes}")
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(ranks)]


def _work(job: Callable[[int, Path], Any], rank: int, ranks: int, port: int, folder: Path) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu")
    let_accelerate_divide()
    torch.save(job(rank, folder), folder / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()
