"""The log of a run as a table and as figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hf_sparse.report.pictures import (
    DENSE,
    GRAY,
    LITERAL,
    RATE,
    ZEROS,
    hide_frame,
    new_figure,
    printable,
    write_png,
)
from hf_sparse.report.tables import narrow_table
from hf_sparse.runs.history import Log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROWS, _EVALUATIONS = 20, 50
# Columns of the table: key of the log, heading, format.
_COLUMNS = (
    ("loss", "loss", "{:.4g}"),
    ("eval_loss", "eval loss", "{:.4g}"),
    ("learning_rate", "rate", "{:.1e}"),
    ("sparsity", "zeros", "{:.1%}"),
    ("groups_gone", "gone", "{:.1%}"),
    ("penalty_strength", "strength", "{:.1e}"),
)

_NOTHING = "the run has logged nothing that can be shown; train with smaller logging_steps"


def is_worth_printing(log: Log) -> bool:
    """Return whether the log has anything to show."""
    return bool(_present(log))


def print_history(log: Log, console: Console) -> None:
    """Print about twenty steps of a log, evenly spaced, with the first, the last and up to 50 evaluations.

    Raises `ValueError` if the log has nothing to show.
    """
    columns = _present(log)
    if not columns:
        raise ValueError(_NOTHING)
    spacing = max(-(-(len(log) - 1) // (_ROWS - 1)), 1)
    evaluated = [row["step"] for row in log if "eval_loss" in row]
    kept = set(evaluated[:: max(-(-len(evaluated) // _EVALUATIONS), 1)])
    shown = [
        row for index, row in enumerate(log) if index % spacing == 0 or row is log[-1] or row["step"] in kept
    ]
    table = narrow_table("step", *(heading for _, heading, _ in columns), numbered=True)
    for row in shown:
        cells = [form.format(row[key]) if key in row else "" for key, _, form in columns]
        table.add_row(f"{row['step']:,}", *cells)
    console.print(table)


def history_figure(log: Log, title: str) -> "Figure":
    """Draw loss, sparsity and small groups, strength of the penalty and learning rate against the step.

    Raises `ValueError` if none of them was logged.
    """
    keys = {key for key, _, _ in _present(log)}
    drawn = [(_draw_loss, 2.2)] if keys & {"loss", "eval_loss"} else []
    drawn += [(_draw_zeros, 2.2)] if keys & {"sparsity", "groups_gone"} else []
    drawn += [(_draw_strength, 1.4)] if "penalty_strength" in keys else []
    drawn += [(_draw_rate, 1.2)] if "learning_rate" in keys else []
    if not drawn:
        raise ValueError(_NOTHING)
    ratios = [ratio for _, ratio in drawn]
    figure = new_figure(9, 1.1 + sum(ratios), title)
    panels = figure.subplots(len(drawn), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    for axes, (draw, _) in zip(panels, drawn, strict=True):
        draw(axes, log)
        axes.grid(axis="y", alpha=0.2)
        axes.set_axisbelow(True)
        hide_frame(axes, "top", "right")
    figure.align_ylabels(panels)
    panels[0].set_xlim(0, log[-1]["step"])
    panels[-1].set_xlabel("optimizer step")
    panels[-1].xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _present(log: Log) -> list[tuple[str, str, str]]:
    return [column for column in _COLUMNS if any(column[0] in row for row in log)]


def _series(log: Log, key: str, factor: float = 1.0) -> tuple[list[float], list[float]]:
    rows = [row for row in log if key in row]
    return [row["step"] for row in rows], [factor * row[key] for row in rows]


def _draw_loss(axes: "Axes", log: Log) -> None:
    axes.plot(*_series(log, "loss"), color=DENSE, linewidth=1.8, label="training")
    evaluated = _series(log, "eval_loss")
    axes.plot(*evaluated, color=RATE, linewidth=1.4, marker="o", markersize=4, label="evaluation")
    if evaluated[0]:
        axes.legend(frameon=False, fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("loss")


def _draw_zeros(axes: "Axes", log: Log) -> None:
    steps, zeros = _series(log, "sparsity", 100)
    axes.fill_between(steps, zeros, color=ZEROS, alpha=0.12, linewidth=0)
    axes.plot(steps, zeros, color=ZEROS, linewidth=2)
    if zeros:
        axes.text(steps[-1], zeros[-1], f"{zeros[-1]:.1f} % zeros ", va="bottom", ha="right", color=ZEROS)
    gone = _series(log, "groups_gone", 100)
    axes.plot(*gone, color=RATE, linewidth=1.6, linestyle="--", label="groups that are small")
    if gone[0]:
        axes.legend(loc="lower right", frameon=False, fontsize=8)
    axes.set_ylim(0, 105)
    axes.set_ylabel("%", color=GRAY)


def _draw_strength(axes: "Axes", log: Log) -> None:
    axes.plot(*_series(log, "penalty_strength"), color=RATE, linewidth=1.6, drawstyle="steps-post")
    axes.set_yscale("log")
    axes.set_ylabel("penalty\nstrength")


def _draw_rate(axes: "Axes", log: Log) -> None:
    axes.plot(*_series(log, "learning_rate"), color=DENSE, linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    axes.set_ylabel("learning\nrate")


def plot_demo(
    log: Log,
    accuracies: Mapping[str, float],
    majority: float,
    title: str,
    path: Path,
) -> None:
    """Write `demo_figure` as PNG."""
    write_png(demo_figure(log, accuracies, majority, title), path)


def demo_figure(log: Log, accuracies: Mapping[str, float], majority: float, title: str) -> "Figure":
    """Draw sparsity and learning rate of a pruning run beside the accuracies of the models of the demo.

    `majority` is the accuracy of always giving the most frequent answer. The first accuracy is that of the
    dense model.
    """
    figure = new_figure(11, 4.4)
    figure.suptitle(printable(title), fontsize=12, **LITERAL)
    run, bars = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_run(run, log)
    _draw_accuracies(bars, accuracies, majority)
    return figure


def _draw_run(zeros: "Axes", log: Log) -> None:
    lines = [line for line in log if "sparsity" in line and "learning_rate" in line]
    steps = [line["step"] for line in lines]
    zeros.set_title("Pruning once, during pre-training", fontsize=10)
    zeros.plot(steps, [100 * line["sparsity"] for line in lines], color=ZEROS, linewidth=2)
    zeros.set_xlabel("optimizer step")
    zeros.set_ylabel("zeros among the encoder's weights (%)", color=ZEROS)
    zeros.set_ylim(0, 100)
    zeros.set_xlim(left=0)
    zeros.tick_params(axis="y", colors=ZEROS)
    zeros.grid(alpha=0.25)
    rate = zeros.twinx()
    rate.plot(steps, [1000 * line["learning_rate"] for line in lines], color=RATE, linewidth=1.5)
    rate.set_ylabel("learning rate (thousandths)", color=RATE)
    rate.set_ylim(bottom=0)
    rate.tick_params(axis="y", colors=RATE)
    for axes in (zeros, rate):
        hide_frame(axes, "top")


def _draw_accuracies(axes: "Axes", accuracies: Mapping[str, float], majority: float) -> None:
    names, values = list(accuracies), [100 * value for value in accuracies.values()]
    colors = [DENSE] + [ZEROS] * (len(names) - 1)
    drawn = axes.bar(names, values, color=colors, width=0.62)
    axes.bar_label(drawn, fmt="%.1f", padding=2)
    axes.axhline(100 * majority, color=GRAY, linestyle="--", linewidth=1, label="most frequent class")
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    axes.set_title("The task, after fine-tuning", fontsize=10)
    axes.set_ylabel("accuracy on held-out texts (%)")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    hide_frame(axes, "top", "right")
