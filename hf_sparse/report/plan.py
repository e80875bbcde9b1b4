"""A planned run as a table, as numbers."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hf_sparse.report.tables import narrow_table, size
from hf_sparse.training.plan import Plan
from hf_sparse.training.rehearsal import Rehearsal

_ROWS = 20


def print_plan(plan: Plan, console: Console) -> None:
    """Print a plan within the width of a console."""
    for line in _about(plan):
        console.print(line, highlight=False, markup=False)
    console.print("", _steps(plan), "")
    if plan.rehearsal is not None:
        _print_rehearsal(plan.rehearsal, console)
    console.print(_listed(plan.remarks), highlight=False)


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """Return everything in a plan as JSON takes it; series begin at step 0."""
    return {
        "recipe": plan.recipe.to_dict(),
        "total_steps": plan.total_steps,
        "schedule": plan.schedule and asdict(plan.schedule),
        "sparsity": plan.sparsity,
        "learning_rate": plan.learning_rate,
        "loss_weights": dict(plan.loss_weights),
        "mask_updates": plan.updates,
        "rounding": plan.rounding,
        "freezing": plan.freezing,
        "model": plan.rehearsal and _numbers(plan.rehearsal),
        "remarks": plan.remarks,
    }


def sampled_steps(plan: Plan, most: int = _ROWS) -> list[int]:
    """Choose at most so many steps to show: those where something changes, round numbers in between."""
    keys, last = plan.key_steps, plan.total_steps
    for spacing in (factor * 10**power for power in range(20) for factor in (1, 2, 5)):
        grid = range(0, last, spacing)
        if len(grid) + sum(step not in grid for step in keys) <= most:
            break
    return sorted({*keys, *grid})


def notes_of(plan: Plan) -> dict[int, str]:
    """Name the steps where something changes; what matters more overwrites the rest."""
    notes = {0: "start", plan.total_steps: "end"}
    if plan.rounding is not None:
        notes[plan.rounding] = "rounding begins"
    if plan.freezing is not None:
        notes[plan.freezing] = "ranges freeze"
    if (schedule := plan.schedule) is not None:
        notes[schedule.update_end] = "updates end"
        notes[schedule.begin] = "ramp begins"
        notes[schedule.ramp_end] = "ramp ends" if schedule.begin < schedule.ramp_end else "pruned at once"
    return notes


def _about(plan: Plan) -> list[str]:
    said = [f"{plan.total_steps:,} steps. {_pruning(plan)}"]
    if (schedule := plan.schedule) is not None:
        course = (
            f"from {schedule.initial:.1%} at step {schedule.begin:,} to {schedule.final:.1%} at step "
            f"{schedule.ramp_end:,}"
            if schedule.begin < schedule.ramp_end
            else f"{schedule.final:.1%} at step {schedule.begin:,}"
        )
        said.append(
            f"Sparsity ({schedule.shape}): {course}. Masks: every {_steps_of(schedule.every)} until step "
            f"{schedule.update_end:,}."
        )
    if (quantization := plan.recipe.quantization) is not None:
        frozen = "" if plan.freezing is None else f", ranges frozen at step {plan.freezing:,}"
        said.append(
            f"Quantized from step {plan.rounding:,}: weights {quantization.weights}, inputs "
            f"{quantization.activations}{frozen}."
        )
    return said


def _pruning(plan: Plan) -> str:
    if (sparsity := plan.recipe.sparsity) is None:
        return "Nothing is pruned."
    if plan.schedule is None:
        return "The zeros that the model comes with are locked."
    return f"Pruned by {sparsity.method}: {sparsity.pattern}, {sparsity.allocation}."


def _steps_of(every: int) -> str:
    return "step" if every == 1 else f"{every:,} steps"


def _steps(plan: Plan) -> Table:
    # With all the terms of a loss there is no room for notes in 80 columns.
    noted = len(plan.loss_weights) <= 3
    table = narrow_table("step", "zeros", "rate", *plan.loss_weights, "updates", numbered=True)
    if noted:
        table.add_column("", style="dim", no_wrap=True)
    notes = notes_of(plan)
    for step in sampled_steps(plan):
        rate = plan.learning_rate[step] if plan.learning_rate is not None else None
        table.add_row(
            f"{step:,}",
            "-" if plan.sparsity is None else f"{plan.sparsity[step]:.1%}",
            "-" if rate is None else f"{rate:.1e}",
            *(f"{weight:g}" for weight in plan.loss_weights.values()),
            f"{plan.updates_by(step):,}",
            *([notes.get(step, "")] if noted else []),
        )
    return table


def _print_rehearsal(seen: Rehearsal, console: Console) -> None:
    if seen.weights:
        now, at_the_end = (_share(zeros, seen) for zeros in (seen.zeros_now, max(seen.removed.values())))
        console.print(
            f"{seen.targets} weight matrices, {seen.weights:,} entries in all: {now} are zero now, "
            f"{at_the_end} at the end.",
            highlight=False,
        )
    if seen.left_out:
        reasons = "; ".join(f"{count} {reason}" for reason, count in seen.left_out.items())
        console.print(f"Linears left out: {reasons}.", highlight=False, markup=False)
    table = narrow_table("memory of a process, without activations", size(sum(seen.memory.values())))
    for name, count in seen.memory.items():
        table.add_row(name, size(count))
    if seen.sidecar:
        table.add_section()
        table.add_row("on disk: sidecar of a checkpoint, at most", size(seen.sidecar))
    console.print("", table, "")
    rows, tokens = seen.batch.rows * seen.batch.accumulation, seen.batch.tokens
    table = narrow_table(
        f"time of a step of {rows} x {tokens} tokens, estimated",
        f"{1 + sum(seen.cost.values()):.2f} x a plain one",
    )
    for name, share in seen.cost.items():
        table.add_row(name, f"+ {share:.2f}")
    console.print(table, "")


def _share(zeros: int, seen: Rehearsal) -> str:
    return f"{zeros:,} ({zeros / seen.weights:.1%})"


def _listed(texts: tuple[str, ...]) -> Table:
    table = Table.grid(padding=(0, 1))
    for text in texts:
        table.add_row("-", escape(text))
    return table


def _numbers(seen: Rehearsal) -> dict[str, Any]:
    names = ("targets", "weights", "zeros_now", "left_out", "memory", "sidecar", "cost")
    found = {name: getattr(seen, name) for name in names}
    return found | {"removed_finally": max(seen.removed.values(), default=0), "batch": asdict(seen.batch)}
