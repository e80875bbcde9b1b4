"""What Prune Once for All costs on many accelerators: a simulation from measured ratios and a data sheet.

    python benchmarks/scale.py

Nothing is trained. Every formula stands in the function that uses it; docs/scale.md explains the results.
Writes results/scale.json and docs/pictures/scale.png.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_sparse.report.pictures import DENSE, GRAY, RATE, ZEROS, hide_frame, new_figure, write_png
from measuring import RESULTS, write_results

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "scale.png"
COLORS = (DENSE, ZEROS, GRAY, RATE, "#b33f40")
GIGA, TERA, DAY = 1e9, 1e12, 86_400


@dataclass(frozen=True)
class Model:
    """A transformer; `targets` are the weights that are pruned, `head` those that a token's output takes."""

    name: str
    layers: int
    width: int
    parameters: float
    targets: float
    head: float
    causal: bool

    def flops(self, length: int) -> float:
        """Return the floating-point operations of a forward pass, for each token of a text of `length`."""
        attention = 4 * length * self.width * self.layers
        return 2 * (self.targets + self.head) + attention * (0.5 if self.causal else 1.0)


@dataclass(frozen=True)
class Accelerator:
    """Figures of a data sheet: operations a second in bfloat16, bytes, bytes a second.

    Attributes:
        utilization: share of the operations that training reaches.
        inside: bandwidth of an accelerator to the others of its node.
        across: bandwidth to other nodes; each accelerator has a network adapter of its own.
        node: accelerators in a node.
    """

    name: str
    flops: float
    utilization: float
    memory: float
    bandwidth: float
    inside: float
    across: float
    node: int = 8

    def link(self, count: int) -> float:
        """Return the bandwidth of a sum over `count` accelerators, which uses all adapters of a node."""
        return self.inside if count <= self.node else min(self.inside, self.node * self.across)


@dataclass(frozen=True)
class Stage:
    """A stage of the method."""

    name: str
    tokens: float
    batch: int
    length: int
    teacher: bool = True
    pruned: bool = True
    quantized: bool = False

    @property
    def steps(self) -> float:
        """Optimizer steps."""
        return self.tokens / (self.batch * self.length)


# Shapes of google-bert/bert-large-uncased, meta-llama/Llama-3.2-1B and mistralai/Mistral-7B-v0.1.
MODELS = (
    Model("BERT-Large", 24, 1024, 335e6, 302e6, 31e6, causal=False),
    Model("decoder, 1 B", 16, 2048, 1.236e9, 973e6, 263e6, causal=True),
    Model("decoder, 7 B", 32, 4096, 7.24e9, 6.98e9, 131e6, causal=True),
)
# NVIDIA H100 SXM data sheet: dense bfloat16, HBM3, NVLink (one direction), 400 Gb/s InfiniBand.
H100 = Accelerator("H100 SXM", 989 * TERA, 0.4, 80 * GIGA, 3.35 * TERA, 450 * GIGA, 50 * GIGA)
COUNTS = (8, 64, 512)

# Zafrir et al. 2021, as the authors' scripts run it (docs/methods.md).
STEPS, BATCH, LENGTH, UPDATES = 100_000, 256, 512, 81
# MNLI, with the batch of the authors' team: 9 epochs, then 3 in 8 bits.
EXAMPLES, TASK_BATCH, TASK_LENGTH, EPOCHS, EPOCHS_8BIT = 392_702, 32, 128, 9, 3

# Bytes of a parameter: float32 weights, gradients and two moments of Adam; the teacher's weights. Of a
# target: its mask, its remembered value.
TRAINED, TEACHER, MASK, REMEMBERED = 16, 4, 1 / 8, 4
# Bytes that Adam moves for a parameter: it reads all four and writes three.
ADAM = 28
# Bytes that are sent for a parameter and step: two gathers in bfloat16 and a reduction in float32 (FSDP), or
# the two halves of an all-reduce of float32 gradients (DDP).
SENT = 8
# Share of the student's arithmetic that communication can hide behind: the backward pass.
HIDDEN = 2 / 3
# Bytes of activations for each token, layer and unit of width (Korthikanti et al. 2022, arXiv:2205.05198,
# without the attention matrix).
ACTIVATION = 34
# Bytes moved for a target in a step: gradient read and written, mask read; remembered values are put into the
# weight and taken out of it.
MASKED, REMEMBERING = 8 + 1 / 8, 24 + 1 / 8
# A mask update reads every score in three passes of a radix selection and writes the mask; the sums of
# histograms take a few rounds, for scores and for ties.
RANKED, ROUNDS, BINS, LATENCY = 13, 6, 2048, 50e-6
# Bytes a second: SHA-256 on one core; a file system shared by all.
HASHED, WRITTEN = 1.3 * GIGA, 5 * GIGA
# Of a token in a cache: the 32 largest logits in float32 with their numbers, the mass of the others.
CACHED = 32 * 8 + 4


def measured() -> dict[str, float]:
    """Return what this project's benchmarks measured: steps over plain ones, bits of a mask on disk."""
    ratios = {row["variant"]: row["ratio of medians"] for row in _read("training_overhead")["rows"]}
    return {
        "quantized": ratios["quantized, int8 weights and uint8 inputs"],
        "mask bits": _read("mask_update")["settings"]["sidecar bits a weight on disk, at 90 %"],
    }


def stages() -> tuple[Stage, ...]:
    """Return the stages of Prune Once for All for one task."""
    upstream, epoch = STEPS * BATCH * LENGTH, EXAMPLES * TASK_LENGTH
    return (
        Stage("teacher", upstream, BATCH, LENGTH, teacher=False, pruned=False),
        Stage("pruning", upstream, BATCH, LENGTH),
        Stage("transfer", EPOCHS * epoch, TASK_BATCH, TASK_LENGTH),
        Stage("8 bits", EPOCHS_8BIT * epoch, TASK_BATCH, TASK_LENGTH, quantized=True),
    )


def arithmetic(model: Model, stage: Stage, accelerator: Accelerator, count: int) -> tuple[float, float]:
    """Return the seconds of a step's forward and backward pass, and of the teacher's forward pass.

    A text is on one accelerator, so no more of them work than a batch has texts.
    """
    tokens = stage.batch / min(count, stage.batch) * stage.length
    forward = tokens * model.flops(stage.length) / (accelerator.flops * accelerator.utilization)
    return 3 * forward, forward if stage.teacher else 0.0


def exposed(model: Model, accelerator: Accelerator, count: int, compute: float) -> float:
    """Return the seconds of a step in which accelerators wait for each other's bytes."""
    sent = SENT * model.parameters * (count - 1) / count / accelerator.link(count)
    return max(sent - HIDDEN * compute, 0.0)


def memory(model: Model, count: int, sharded: bool) -> float:
    """Return the bytes that the pruning stage needs on each of `count` accelerators."""
    held = (TRAINED + TEACHER) * model.parameters + (MASK + REMEMBERED) * model.targets
    # One text at a time, gradients accumulated.
    activations = ACTIVATION * LENGTH * model.width * model.layers
    # In bfloat16: the layer at work and the next one.
    gathered = 2 * 2 * model.targets / model.layers
    return (held / count + gathered if sharded else held) + activations


def mask_update(model: Model, accelerator: Accelerator, count: int, sharded: bool) -> float:
    """Return the seconds of one mask update: passes over the scores, and sums of histograms."""
    read = RANKED * model.targets / accelerator.bandwidth
    if not sharded:
        return read
    histograms = 2 * 8 * BINS * 6 * model.layers
    return read / count + ROUNDS * (LATENCY + histograms / accelerator.link(count))


def checkpoint(model: Model, mask_bits: float) -> tuple[float, float]:
    """Return the bytes of a checkpoint of the pruning stage, and those of them that pruning adds."""
    added = mask_bits / 8 * model.targets + REMEMBERED * 0.9 * model.targets
    return 12 * model.parameters + added, added


def step_of(
    model: Model, stage: Stage, accelerator: Accelerator, count: int, sharded: bool, quantized: float
) -> dict[str, float]:
    """Return the seconds of one step by what they are spent on; `quantized` is a step over a plain one."""
    student, teacher = arithmetic(model, stage, accelerator, count)
    held = (count if sharded else 1) * accelerator.bandwidth
    moved = (MASKED + (REMEMBERING if stage.name == "pruning" else 0)) * model.targets
    return {
        "student": student * (quantized if stage.quantized else 1.0),
        "teacher": teacher,
        "optimizer": ADAM * model.parameters / held,
        "masks": moved / held if stage.pruned else 0.0,
        "waiting": exposed(model, accelerator, count, student),
    }


def simulate(found: dict[str, float], accelerator: Accelerator = H100) -> list[dict[str, Any]]:
    """Return a row for every model and number of accelerators."""
    return [_row(model, accelerator, count, found) for model in MODELS for count in COUNTS]


def _row(model: Model, accelerator: Accelerator, count: int, found: dict[str, float]) -> dict[str, Any]:
    sharded = memory(model, count, sharded=False) > accelerator.memory
    steps = {
        stage.name: step_of(model, stage, accelerator, count, sharded, found["quantized"])
        for stage in stages()
    }
    days = {f"{stage.name} days": stage.steps * sum(steps[stage.name].values()) / DAY for stage in stages()}
    pruning = steps["pruning"]
    whole = sum(pruning.values())
    update = mask_update(model, accelerator, count, sharded)
    size, added = checkpoint(model, found["mask bits"])
    row = {
        "model": model.name,
        "accelerators": count,
        "engine": "FSDP2" if sharded else "DDP",
        "GB each": memory(model, count, sharded) / GIGA,
        "step ms": 1e3 * whole,
        **{name: seconds / whole for name, seconds in pruning.items()},
        "mask update ms": 1e3 * update,
        "mask updates": UPDATES * update / (STEPS * whole),
        "checkpoint GB": size / GIGA,
        "of it pruning": added / size,
        "write s": size / WRITTEN,
        "hash s": size / HASHED,
        **days,
        "accelerator days": count * sum(days.values()),
    }
    row["what breaks"] = "; ".join(_limits(row, model, accelerator)) or "nothing"
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in row.items()}


def _limits(row: dict[str, Any], model: Model, accelerator: Accelerator) -> Iterator[str]:
    """Yield what breaks, the first thing first."""
    count = row["accelerators"]
    if memory(model, count, sharded=True) > accelerator.memory:
        yield "memory, even sharded"
    elif row["engine"] == "FSDP2":
        yield "memory of DDP"
    if count > BATCH:
        yield f"batch: {BATCH} texts for {count} accelerators"
    if row["waiting"] > 0.1:
        yield f"communication: {row['waiting']:.0%} of a step"
    if row["masks"] > 0.1:
        yield f"masks and remembered values: {row['masks']:.0%} of a step"


def settings(found: dict[str, float], accelerator: Accelerator = H100) -> dict[str, Any]:
    """Return what the simulation assumes."""
    return {
        "accelerator": accelerator.name,
        "share of its bfloat16 operations": accelerator.utilization,
        "upstream": f"{STEPS} steps of {BATCH} texts of {LENGTH} tokens",
        "task": f"{EXAMPLES} examples of {TASK_LENGTH} tokens, {EPOCHS} epochs, then {EPOCHS_8BIT} in 8 bits",
        "step over plain, quantized": found["quantized"],
        "mask bits a weight on disk": found["mask bits"],
        "cached logits of all upstream tokens, TB": round(STEPS * BATCH * LENGTH * CACHED / TERA, 1),
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw how the time of a pruning step is spent, a bar for each model and number of accelerators."""
    figure = new_figure(9.0, 3.6)
    axes = figure.subplots()
    left = [0.0] * len(rows)
    labels = [f"{row['model']} on {row['accelerators']}" for row in rows]
    for name, color in zip(("student", "teacher", "optimizer", "masks", "waiting"), COLORS, strict=True):
        widths = [row[name] for row in rows]
        axes.barh(labels, widths, left=left, color=color, label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of a pruning step")
    hide_frame(axes, "top", "right")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=5, frameon=False)
    write_png(figure, path)


def _read(name: str) -> dict[str, Any]:
    return json.loads((Path(RESULTS) / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    ratios = measured()
    simulated = simulate(ratios)
    title = "Prune Once for All on many accelerators, simulated"
    print(write_results("scale", title, simulated, settings(ratios), list(simulated[0])))
    draw(simulated, PICTURE)
