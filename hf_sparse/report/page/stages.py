"""The stages of a pipeline one after another, as one figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_sparse.report.colours import BLUE, INK, MUTED, ORANGE, SLATE, Colour
from hf_sparse.report.page.canvas import Picture, name_axes, new_panels, write_below
from hf_sparse.report.page.curves import has_numbers, is_wide, series, to_logarithms
from hf_sparse.runs.measured import MeasuredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What is drawn below each other: the key, what it is called, its factor, its colour.
_PANELS: tuple[tuple[str, str, float, Colour], ...] = (
    ("sparsity", "zeros (%)", 100, BLUE),
    ("loss", "loss", 1, SLATE),
    ("learning_rate", "learning rate", 1, ORANGE),
)


def stages_figure(stages: Sequence[MeasuredRun], key: str, numbers: Mapping[str, int]) -> Picture | None:
    """Draw the stages that have a log side by side, each as wide as the others; None with fewer than two.

    `numbers` are those that runs have in all figures, by their names.
    """
    logged = [stage for stage in stages if stage.run.log]
    panels = [panel for panel in _PANELS if any(has_numbers(stage.run.log, panel[0]) for stage in logged)]
    if len(logged) < 2 or not panels:
        return None
    title = f"Stages up to {stages[-1].name}"
    figure, every = new_panels(title, len(panels), 1.0 + 1.35 * len(panels))
    for axes, (name, label, factor, colour) in zip(every, panels, strict=True):
        drawn: list[float] = []
        for place, stage in enumerate(logged):
            # A run may have been evaluated and not trained.
            last = max(stage.run.log[-1]["step"], 1)
            steps, values = series(stage.run.log, name, factor)
            drawn += values
            axes.plot([place + step / last for step in steps], values, color=colour.light, linewidth=1.8)
        _lay_out(axes, name, len(logged), wide=name == "loss" and is_wide(drawn))
        name_axes(axes, y=label)
    figure.align_ylabels(every)
    every[-1].set_xticks(
        [place + 0.5 for place in range(len(logged))],
        [f"{numbers[stage.name]}" for stage in logged],
        fontweight="bold",
    )
    every[-1].tick_params(axis="x", length=0, labelcolor=INK.light)
    names = ", ".join(f"{numbers[stage.name]}\u00a0{stage.name}" for stage in logged)
    write_below(figure, names)
    steps = "; ".join(f"{stage.name} {stage.run.log[-1]['step']:,} steps" for stage in logged)
    caption = (
        f"What each stage logged, one after another: {steps}. All are drawn as wide as each other; losses of "
        "different tasks do not compare."
    )
    return Picture(key, title, caption, figure)


def _lay_out(axes: "Axes", name: str, count: int, wide: bool) -> None:
    axes.set_xlim(0, count)
    axes.grid(False, axis="x")
    for place in range(1, count):
        axes.axvline(place, color=MUTED.light, linewidth=0.8, linestyle=(0, (3, 3)))
    if name == "sparsity":
        axes.set_ylim(0, 100)
    elif wide:
        to_logarithms(axes)
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:g}")
