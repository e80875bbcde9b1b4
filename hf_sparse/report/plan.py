"""A planned run as a table, as numbers, as a picture."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from hf_sparse.report.pictures import GREY, RATE, ZEROS, hide_frame, new_figure
from hf_sparse.report.tables import narrow_table, size
from hf_sparse.training.plan import Plan
from hf_sparse.training.rehearsal import Rehearsal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROWS = 20
_LOSSES = ("#5b6b7a", "#7a5c86", "#a5566b", "#5f7d4f", "#8a6d3b")


def print_plan(plan: Plan, console: Console) -> None:
    """Print a plan within the width of a console."""
    for line in _about(plan):
        console.print(line, highlight=False)
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
        "model": plan.rehearsal and _numbers(plan.rehearsal),
        "remarks": plan.remarks,
    }


def sampled_steps(plan: Plan, most: int = _ROWS) -> list[int]:
    """Choose at most so many steps to show: those where something changes, round numbers in between."""
    keys, last = set(plan.key_steps), plan.total_steps
    spacing = next(
        factor * 10**power
        for power in range(20)
        for factor in (1, 2, 5)
        if len(keys | set(range(0, last, factor * 10**power))) <= most
    )
    return sorted(keys | set(range(0, last, spacing)))


def plan_figure(plan: Plan, title: str) -> "Figure":
    """Draw sparsity with the mask updates, learning rate, weights of loss terms, each against the step."""
    drawn = [(_draw_sparsity, 3)] if plan.sparsity is not None else []
    drawn += [(_draw_rate, 2)] if plan.learning_rate is not None else []
    drawn += [(_draw_losses, 0.8)] if plan.loss_weights else []
    if not drawn:
        raise ValueError("nothing is known of this run that could be drawn; plan without --png")
    ratios = [ratio for _, ratio in drawn]
    figure = new_figure(9, 1.3 + 1.05 * sum(ratios))
    figure.suptitle(title, fontsize=13, x=0.01, horizontalalignment="left", fontweight="bold")
    panels = figure.subplots(len(drawn), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    for axes, (draw, _) in zip(panels, drawn, strict=True):
        draw(axes, plan)
        axes.set_xlim(0, plan.total_steps)
        axes.grid(axis="y", alpha=0.2)
        axes.set_axisbelow(True)
        for step in plan.key_steps[1:-1]:
            axes.axvline(step, color=GREY, linewidth=0.8, linestyle=(0, (2, 3)))
        hide_frame(axes, "top", "right")
    _name_key_steps(panels[0], plan)
    figure.align_ylabels(panels)
    panels[-1].set_xlabel("optimizer step")
    panels[-1].xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _about(plan: Plan) -> list[str]:
    sparsity, schedule = plan.recipe.sparsity, plan.schedule
    steps = f"{plan.total_steps:,} steps"
    if sparsity is None:
        return [f"{steps}. Nothing is pruned."]
    if schedule is None:
        return [f"{steps}. The zeros that the model comes with are locked."]
    course = (
        f"from {schedule.initial:.1%} at step {schedule.begin:,} to {schedule.final:.1%} at step "
        f"{schedule.ramp_end:,}"
        if schedule.begin < schedule.ramp_end
        else f"{schedule.final:.1%} at step {schedule.begin:,}"
    )
    return [
        f"{steps}. Pruned by {sparsity.method}: {sparsity.pattern}, {sparsity.allocation}.",
        f"Sparsity ({schedule.shape}): {course}. Masks: every {_steps_of(schedule.every)} until step "
        f"{schedule.update_end:,}.",
    ]


def _steps_of(every: int) -> str:
    return "step" if every == 1 else f"{every:,} steps"


def _steps(plan: Plan) -> Table:
    # With all the terms of a loss there is no room for notes in 80 columns.
    noted = len(plan.loss_weights) <= 3
    table = narrow_table("step", "zeros", "rate", *plan.loss_weights, "updates", numbered=True)
    if noted:
        table.add_column("", style="dim", no_wrap=True)
    notes = _notes(plan)
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


def _notes(plan: Plan) -> dict[int, str]:
    """Name the steps where something changes; what matters more overwrites the rest."""
    notes = {0: "start", plan.total_steps: "end"}
    if (schedule := plan.schedule) is not None:
        notes[schedule.update_end] = "updates end"
        notes[schedule.begin] = "ramp begins"
        notes[schedule.ramp_end] = "ramp ends" if schedule.begin < schedule.ramp_end else "pruned at once"
    return notes


def _print_rehearsal(seen: Rehearsal, console: Console) -> None:
    if seen.weights:
        console.print(
            f"{seen.targets} weight matrices, {seen.weights:,} entries in all: {_share(seen.zeros_now, seen)} "
            f"are zero now, {_share(max(seen.removed.values()), seen)} at the end.",
            highlight=False,
        )
    if seen.left_out:
        reasons = "; ".join(f"{count} {reason}" for reason, count in seen.left_out.items())
        console.print(f"Linears left out: {reasons}.", highlight=False)
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
        table.add_row("-", text)
    return table


def _numbers(seen: Rehearsal) -> dict[str, Any]:
    names = ("targets", "weights", "zeros_now", "left_out", "memory", "sidecar", "cost")
    found = {name: getattr(seen, name) for name in names}
    return found | {"removed_finally": max(seen.removed.values(), default=0), "batch": asdict(seen.batch)}


def _name_key_steps(axes: "Axes", plan: Plan) -> None:
    for step, note in _notes(plan).items():
        if 0 < step < plan.total_steps:
            axes.annotate(
                f"{note}, {step:,}",
                (step, 1),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                horizontalalignment="center",
                fontsize=8,
                color=GREY,
            )


def _draw_sparsity(axes: "Axes", plan: Plan) -> None:
    shares = [100 * share for share in plan.sparsity]
    steps = range(plan.total_steps + 1)
    axes.fill_between(steps, shares, step="post", color=ZEROS, alpha=0.12, linewidth=0)
    axes.step(steps, shares, where="post", color=ZEROS, linewidth=2)
    axes.vlines(plan.updates, 0, 4, color=ZEROS, linewidth=0.8)
    if plan.updates:
        middle = (plan.updates[0] + plan.updates[-1]) / 2
        axes.text(middle, 5, "mask updates", color=ZEROS, fontsize=8, horizontalalignment="center")
    axes.annotate(
        f"{shares[-1]:.1f} %",
        (plan.total_steps, shares[-1]),
        (-2, 5),
        textcoords="offset points",
        horizontalalignment="right",
        color=ZEROS,
        fontweight="bold",
    )
    axes.set_ylim(0, 102)
    axes.set_ylabel("zeros (%)")


def _draw_rate(axes: "Axes", plan: Plan) -> None:
    axes.plot(range(1, plan.total_steps + 1), plan.learning_rate[1:], color=RATE, linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    axes.set_ylabel("learning rate")


def _draw_losses(axes: "Axes", plan: Plan) -> None:
    """Pile the weights up, so that equal ones do not hide each other."""
    floor, colours = 0.0, iter(_LOSSES)
    for name, weight in plan.loss_weights.items():
        if weight:
            colour = next(colours)
            axes.fill_between(
                [0, plan.total_steps], floor, floor + weight, color=colour, alpha=0.25, linewidth=0
            )
            axes.text(
                plan.total_steps / 2,
                floor + weight / 2,
                f"{name} {weight:g}",
                fontsize=8,
                color=colour,
                fontweight="bold",
                horizontalalignment="center",
                verticalalignment="center",
            )
            floor += weight
    axes.set_ylim(0, floor)
    axes.set_yticks([0, floor])
    axes.set_ylabel("loss\nweights")
