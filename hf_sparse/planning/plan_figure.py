"""A planned run as a figure."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hf_sparse.planning.plan import Plan
from hf_sparse.planning.plan_table import notes_of
from hf_sparse.report.pictures import GRAY, RATE, ZEROS, hide_frame, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Share of the width that the name of a step takes.
_ROOM = 0.16
_LOSSES = ("#5b6b7a", "#7a5c86", "#a5566b", "#5f7d4f", "#8a6d3b")


def plan_figure(plan: Plan, title: str) -> "Figure":
    """Draw sparsity with mask updates, learning rate and weights of loss terms, each against the step."""
    drawn: list[tuple[Callable[[Axes, Plan], None], float]] = []
    drawn += [(_draw_sparsity, 3)] if plan.sparsity is not None else []
    drawn += [(_draw_rate, 2)] if plan.learning_rate is not None else []
    drawn += [(_draw_losses, 0.8)] if plan.loss_weights else []
    if not drawn:
        raise ValueError(
            "this plan has nothing to draw: sparsity, learning rate and loss weights are all unknown; plan "
            "without --png"
        )
    ratios = [ratio for _, ratio in drawn]
    figure = new_figure(9, 1.3 + 1.05 * sum(ratios), title)
    panels = figure.subplots(len(drawn), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    for axes, (draw, _) in zip(panels, drawn, strict=True):
        draw(axes, plan)
        axes.set_xlim(0, plan.total_steps)
        axes.grid(axis="y", alpha=0.2)
        axes.set_axisbelow(True)
        for step in plan.key_steps[1:-1]:
            axes.axvline(step, color=GRAY, linewidth=0.8, linestyle=(0, (2, 3)))
        hide_frame(axes, "top", "right")
    _name_key_steps(panels[0], plan)
    figure.align_ylabels(panels)
    panels[-1].set_xlabel("optimizer step")
    panels[-1].xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _name_key_steps(axes: "Axes", plan: Plan) -> None:
    """Write each note above its step, higher if it would touch the note before it."""
    height, last = 0, -plan.total_steps
    for step, note in sorted(notes_of(plan).items()):
        if 0 < step < plan.total_steps:
            height = height + 1 if step - last < _ROOM * plan.total_steps else 0
            axes.annotate(
                f"{note}, {step:,}",
                (step, 1),
                (0, 3 + 12 * height),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                horizontalalignment="center",
                fontsize=8,
                color=GRAY,
            )
            last = step


def _draw_sparsity(axes: "Axes", plan: Plan) -> None:
    shares = [100 * share for share in plan.sparsity or ()]
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
    rates = [rate for rate in plan.learning_rate or () if rate is not None]
    axes.plot(range(1, plan.total_steps + 1), rates, color=RATE, linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    axes.set_ylabel("learning rate")


def _draw_losses(axes: "Axes", plan: Plan) -> None:
    """Stack the weights, so that equal ones do not hide each other."""
    floor, colors = 0.0, iter(_LOSSES)
    for name, weight in plan.loss_weights.items():
        if weight:
            color = next(colors)
            axes.fill_between(
                [0, plan.total_steps], floor, floor + weight, color=color, alpha=0.25, linewidth=0
            )
            axes.text(
                0.01 * plan.total_steps,
                floor + weight / 2,
                f"{name} {weight:g}",
                fontsize=8,
                color=color,
                fontweight="bold",
                verticalalignment="center",
            )
            floor += weight
    axes.set_ylim(0, floor)
    axes.set_yticks([0, floor])
    axes.set_ylabel("loss\nweights")
