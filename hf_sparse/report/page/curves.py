"""What runs have logged, as narrow figures against the step: one run, and the stages of a pipeline."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from hf_sparse.report.colors import BLUE, GREEN, INK, MUTED, ORANGE, SERIES, SLATE, Color
from hf_sparse.report.page.canvas import (
    MOST_POINTS,
    TEXT,
    Picture,
    along_steps,
    average,
    has_numbers,
    is_wide,
    name_axes,
    new_panels,
    series,
    to_logarithms,
    write_below,
)
from hf_sparse.report.page.sentences import percent
from hf_sparse.report.pictures import LITERAL
from hf_sparse.runs.history import Log
from hf_sparse.runs.measured_run import MeasuredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TERM = "loss_"
_DASHES = ("-", (0, (5, 2)), (0, (2, 2)), (0, (7, 2, 2, 2)))
# Panels of the figure of stages: key of the log, label, factor, color.
_PANELS: tuple[tuple[str, str, float, Color], ...] = (
    ("sparsity", "zeros (%)", 100, BLUE),
    ("loss", "loss", 1, SLATE),
    ("learning_rate", "learning rate", 1, ORANGE),
)


def curves(run: MeasuredRun) -> list[Picture]:
    """Draw losses, zeros, groups, scores and learning rate of a run, as far as they were logged."""
    log = run.run.log
    made = (draw(run, log) for draw in (_losses, _zeros, _groups, _scores, _rate))
    return [picture for picture in made if picture is not None]


def gaps_of(log: Log) -> str | None:
    """Return a sentence on the steps whose loss was not finite, None if all were."""
    steps = [row["step"] for row in log if any(not isfinite(row[name]) for name in row if "loss" in name)]
    if not steps:
        return None
    times = "1 logged step" if len(steps) == 1 else f"{len(steps):,} logged steps"
    return f"A loss was not finite at {times}, first at step {steps[0]:,}; the line is interrupted there."


def _losses(run: MeasuredRun, log: Log) -> Picture | None:
    names = _loss_names(log)
    if not names:
        return None
    figure, (axes,) = new_panels("Loss")
    found = [value for key in names for value in series(log, key)[1] if isfinite(value)]
    logarithmic = is_wide(found)
    for place, (key, name) in enumerate(names.items()):
        marker = "o" if key == "eval_loss" else None
        _line(axes, log, key, name, place, marker=marker)
    if logarithmic:
        to_logarithms(axes)
    else:
        axes.set_ylim(min(0, *found), 1.08 * max(found) if max(found) > 0 else 0)
    _finish(axes, log, "loss (logarithmic)" if logarithmic else "loss", legend=len(names) > 1)
    return Picture("loss", "Loss", _on_losses(run, names, log), figure)


def _loss_names(log: Log) -> dict[str, str]:
    keys = dict.fromkeys(key for row in log for key in row)
    terms = [key for key in keys if key.startswith(_TERM)]
    # A loss is a total only if terms are logged beside it.
    penalized = any(row.get("penalty") for row in log)
    total = "total" if terms or penalized else "training"
    names = {"loss": total} | {key: key.removeprefix(_TERM) for key in terms}
    names |= {"penalty": "penalty"} if penalized else {}
    names |= {"eval_loss": "evaluation"}
    return {key: name for key, name in names.items() if has_numbers(log, key)}


def _on_losses(run: MeasuredRun, names: Mapping[str, str], log: Log) -> str:
    said = ["The training loss as logged"]
    terms = [key.removeprefix(_TERM) for key in names if key.startswith(_TERM)]
    recipe = run.run.recipe.distillation
    if terms and recipe is not None:
        total = " + ".join(f"{recipe.weights[term]:g} {term}" for term in terms if recipe.weights.get(term))
        more = " + penalty" if "penalty" in names else ""
        said.append(f"; total = {total}{more}, each term drawn without its weight")
    if "eval_loss" in names:
        said.append(
            "; points are evaluations, by the loss of the task alone" if terms else "; points are evaluations"
        )
    if (longest := max(sum(key in row for row in log) for key in names)) > MOST_POINTS:
        each = round(2 * longest / MOST_POINTS)
        said.append(f"; lines are means of about {each} logged steps, with their ranges behind them")
    return "".join(said) + "." + (f" {gaps}" if (gaps := gaps_of(log)) else "")


def _zeros(run: MeasuredRun, log: Log) -> Picture | None:
    log = [row for row in log if isfinite(row.get("sparsity", 0.0))]
    if not has_numbers(log, "sparsity"):
        return None
    figure, (axes,) = new_panels("Zeros")
    steps, shares = series(log, "sparsity", 100)
    axes.fill_between(steps, shares, color=BLUE.light, alpha=0.14, linewidth=0)
    axes.plot(steps, shares, color=BLUE.light, linewidth=2)
    axes.annotate(
        f"{shares[-1]:.1f} %",
        (steps[-1], shares[-1]),
        (-3, 5 if shares[-1] < 85 else -15),
        textcoords="offset points",
        horizontalalignment="right",
        fontsize=TEXT,
        fontweight="bold",
        color=BLUE.light,
    )
    axes.set_ylim(0, 100)
    _finish(axes, log, "removed weights (%)")
    reached = next(row["step"] for row in log if row.get("sparsity") == _last(log, "sparsity"))
    course = (
        "from the first logged step on"
        if reached == next(row["step"] for row in log if "sparsity" in row)
        else f"from step {reached:,} on"
    )
    return Picture(
        "zeros",
        "Zeros",
        f"The share of removed weights: {percent(shares[-1] / 100)} {course}.",
        figure,
    )


def _last(log: Log, key: str) -> float:
    """Return the last value of a key of the log."""
    return next(row[key] for row in reversed(log) if key in row)


def _groups(run: MeasuredRun, log: Log) -> Picture | None:
    if not has_numbers(log, "groups_gone") or not has_numbers(log, "penalty_strength"):
        return None
    figure, (gone, strength) = new_panels("Groups under the penalty", 2, 3.6)
    gone.plot(*series(log, "groups_gone", 100), color=ORANGE.light, linewidth=2)
    gone.set_ylim(0, 100)
    name_axes(gone, y="small (%)")
    strength.plot(*series(log, "penalty_strength"), color=SLATE.light, linewidth=2, drawstyle="steps-post")
    if min(value for value in series(log, "penalty_strength")[1] if isfinite(value)) > 0:
        to_logarithms(strength)
    _finish(strength, log, "strength")
    last = _last(log, "groups_gone")
    caption = (
        f"Above: the share of groups that the penalty has made small enough to remove, {percent(last)} at "
        "the end. Below: the strength of the penalty, which is adjusted until the recipe's share is reached."
    )
    return Picture("groups", "Groups under the penalty", caption, figure)


def _scores(run: MeasuredRun, log: Log) -> Picture | None:
    yardstick = run.yardstick
    if yardstick is None or "loss" in yardstick.metric:
        return None
    key = f"eval_{yardstick.metric}"
    steps, scores = series(log, key)
    if sum(map(isfinite, scores)) < 2:
        return None
    title = f"Evaluation: {yardstick.name}"
    figure, (axes,) = new_panels(title)
    axes.plot(steps, scores, color=GREEN.light, linewidth=1.8, marker="o", markersize=4, clip_on=False)
    axes.set_ylim(*score_limits(scores))
    _finish(axes, log, yardstick.name)
    caption = f"The {yardstick.name} of every evaluation during training, {scores[-1]:.4g} in the last."
    return Picture("score", title, caption, figure)


def score_limits(scores: Iterable[float]) -> tuple[float, float]:
    """Return the ends of an axis for scores, within [0, 1] if all scores are."""
    finite = [score for score in scores if isfinite(score)]
    low, high = min(finite), max(finite)
    room = max(0.15 * (high - low), 0.02 * abs(high), 1e-3)
    shares = low >= 0 and high <= 1
    return (max(low - room, 0), min(high + room, 1)) if shares else (low - room, high + room)


def _rate(run: MeasuredRun, log: Log) -> Picture | None:
    if not has_numbers(log, "learning_rate"):
        return None
    figure, (axes,) = new_panels("Learning rate")
    steps, rates = series(log, "learning_rate")
    axes.plot(steps, rates, color=ORANGE.light, linewidth=1.8)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:g}")
    _finish(axes, log, "learning rate")
    sparsity = run.run.recipe.sparsity
    caption = f"The learning rate at each logged step, at most {max(filter(isfinite, rates)):.3g}"
    if sparsity is not None and sparsity.lr_rewind:
        caption += "; it is rewound at mask updates while sparsity grows (lr_rewind)"
    return Picture("learning-rate", "Learning rate", f"{caption}.", figure)


def _line(axes: "Axes", log: Log, key: str, name: str, place: int, marker: str | None) -> None:
    color: Color = SERIES[place % len(SERIES)]
    rows = [row for row in log if key in row]
    steps, values = [row["step"] for row in rows], [row[key] for row in rows]
    if len(rows) > MOST_POINTS:
        steps, values, low, high = average(steps, values)
        axes.fill_between(steps, low, high, color=color.light, alpha=0.15, linewidth=0)
    axes.plot(
        steps,
        values,
        color=color.light,
        linewidth=2 if place == 0 else 1.5,
        linestyle=_DASHES[place % len(_DASHES)] if marker is None else ":",
        marker=marker,
        markersize=4.5,
        clip_on=marker is None,
        label=name,
    )


def _finish(axes: "Axes", log: Sequence[Mapping[str, float]], what: str, legend: bool = False) -> None:
    along_steps(axes, log[-1]["step"])
    name_axes(axes, y=what)
    if legend:
        shown = axes.figure.legend(
            loc="outside lower left",
            ncols=3,
            frameon=False,
            fontsize=TEXT,
            labelcolor=INK.light,
            handlelength=1.6,
            columnspacing=1.2,
            borderpad=0,
        )
        for text in shown.get_texts():
            text.set(**LITERAL)
    axes.tick_params(colors=MUTED.light)


def stages_figure(stages: Sequence[MeasuredRun], key: str, numbers: Mapping[str, int]) -> Picture | None:
    """Draw the stages that have a log side by side in the same width; None with fewer than two.

    `numbers` maps the names of runs to their numbers in all figures.
    """
    logged = [stage for stage in stages if stage.run.log]
    panels = [panel for panel in _PANELS if any(has_numbers(stage.run.log, panel[0]) for stage in logged)]
    if len(logged) < 2 or not panels:
        return None
    title = f"Stages up to {stages[-1].name}"
    figure, every = new_panels(title, len(panels), 1.0 + 1.35 * len(panels))
    for axes, (name, label, factor, color) in zip(every, panels, strict=True):
        drawn: list[float] = []
        for place, stage in enumerate(logged):
            # A run that was only evaluated ends at step 0.
            last = max(stage.run.log[-1]["step"], 1)
            steps, values = series(stage.run.log, name, factor)
            drawn += values
            axes.plot([place + step / last for step in steps], values, color=color.light, linewidth=1.8)
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
    lengths = "; ".join(f"{stage.name} {stage.run.log[-1]['step']:,} steps" for stage in logged)
    caption = (
        f"What each stage logged, one after another: {lengths}. All stages are drawn in the same width; "
        "losses of different tasks do not compare."
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
