"""Measured runs as pictures; needs `pip install hf_sparse[demo]`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_sparse.report.pictures import (
    DENSE,
    GREY,
    LITERAL,
    RATE,
    ZEROS,
    hide_frame,
    new_figure,
    printable,
    write_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_demo(
    log: Sequence[Mapping[str, float]],
    accuracies: Mapping[str, float],
    majority: float,
    title: str,
    path: Path,
) -> None:
    """Write the picture of `demo_figure` as PNG."""
    write_png(demo_figure(log, accuracies, majority, title), path)


def demo_figure(
    log: Sequence[Mapping[str, float]], accuracies: Mapping[str, float], majority: float, title: str
) -> "Figure":
    """Draw the course of a pruning run beside the accuracies of the models compared.

    `log` holds the Trainer's lines with `step`, `sparsity`, `learning_rate`; `majority` is the accuracy of
    always giving the most frequent answer. The first of the accuracies is the dense model's.
    """
    figure = new_figure(11, 4.4)
    run, bars = figure.subplots(1, 2, width_ratios=(1.15, 1))
    figure.suptitle(printable(title), fontsize=12, **LITERAL)
    _draw_run(run, log)
    _draw_accuracies(bars, accuracies, majority)
    return figure


def _draw_run(zeros: "Axes", log: Sequence[Mapping[str, float]]) -> None:
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
    colours = [DENSE] + [ZEROS] * (len(names) - 1)
    drawn = axes.bar(names, values, color=colours, width=0.62)
    axes.bar_label(drawn, fmt="%.1f", padding=2)
    axes.axhline(100 * majority, color=GREY, linestyle="--", linewidth=1, label="most frequent class")
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    axes.set_title("The task, after fine-tuning", fontsize=10)
    axes.set_ylabel("accuracy on held-out texts (%)")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    hide_frame(axes, "top", "right")
