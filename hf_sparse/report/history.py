"""What a run has logged, as a table and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from transformers.trainer_utils import get_last_checkpoint

from hf_sparse.reading import read_json, shortened
from hf_sparse.report.pictures import DENSE, GREY, LITERAL, RATE, ZEROS, hide_frame, new_figure, printable
from hf_sparse.report.tables import narrow_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATE = "trainer_state.json"
_STATE, _WAY_OUT = "state of a Trainer", "delete it, or copy it again from where it was written"
_ROWS, _EVALUATIONS = 20, 50
# What is shown of a log: the key, its heading, its format.
_COLUMNS = (
    ("loss", "loss", "{:.4g}"),
    ("eval_loss", "eval loss", "{:.4g}"),
    ("learning_rate", "rate", "{:.1e}"),
    ("sparsity", "zeros", "{:.1%}"),
    ("groups_gone", "gone", "{:.1%}"),
    ("penalty_strength", "strength", "{:.1e}"),
)

_NOTHING = "the run has logged nothing that could be shown; train with smaller logging_steps"

Log = Sequence[Mapping[str, float]]


def read_log(directory: str | Path) -> list[dict[str, float]]:
    """Return what a Trainer logged, by step, in the state that `furthest_state` returns; raises as that does.

    Numbers of one step, as of training and evaluation, are in one mapping.
    """
    rows: dict[int, dict[str, float]] = {}
    for line in furthest_state(directory)["log_history"]:
        numbers = {key: value for key, value in line.items() if is_number(value)}
        rows.setdefault(line["step"], {}).update(numbers)
    return [rows[step] for step in sorted(rows)]


def is_number(value: object) -> bool:
    """Say whether something logged or measured is a number, and not a yes or no."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def furthest_state(directory: str | Path) -> dict[str, Any]:
    """Return the state that a Trainer saved in its output directory or its last checkpoint.

    The one with the later step in its log counts. Raises `ValueError` if there is none, or one is damaged.
    """
    directory = Path(directory)
    last = get_last_checkpoint(str(directory)) if directory.is_dir() else None
    places = [directory / STATE, *([Path(last) / STATE] if last else [])]
    states = [_read_state(path) for path in places if path.is_file()]
    if not states:
        raise ValueError(
            f"{directory} has no {STATE}, nor a checkpoint with one; name the output directory of a Trainer"
        )
    return max(states, key=lambda state: max((line["step"] for line in state["log_history"]), default=0))


def _read_state(path: Path) -> dict[str, Any]:
    state = read_json(path, _STATE, _WAY_OUT)
    lines = state.get("log_history")
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ValueError(
            f"{path} is not a valid {_STATE} (its log_history is not a list of tables); {_WAY_OUT}"
        )
    for line in lines:
        if not isinstance(step := line.get("step"), int) or isinstance(step, bool) or step < 0:
            raise ValueError(
                f"{path} is not a valid {_STATE} (a step in it is {shortened(step)}); {_WAY_OUT}"
            )
    return state


def is_worth_printing(log: Log) -> bool:
    """Say whether anything of what is shown was logged."""
    return bool(_present(log))


def print_history(log: Log, console: Console) -> None:
    """Print some twenty steps of a log, evenly spaced, with the first, the last and up to 50 evaluations.

    Raises `ValueError` if nothing of what is shown was logged.
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
    """Draw loss, sparsity with the groups that are gone, strength of the penalty, learning rate, by step.

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
    figure = new_figure(9, 1.1 + sum(ratios))
    figure.suptitle(
        printable(title), fontsize=13, x=0.01, horizontalalignment="left", fontweight="bold", **LITERAL
    )
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
    axes.set_ylabel("%", color=GREY)


def _draw_strength(axes: "Axes", log: Log) -> None:
    axes.plot(*_series(log, "penalty_strength"), color=RATE, linewidth=1.6, drawstyle="steps-post")
    axes.set_yscale("log")
    axes.set_ylabel("penalty\nstrength")


def _draw_rate(axes: "Axes", log: Log) -> None:
    axes.plot(*_series(log, "learning_rate"), color=DENSE, linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    axes.set_ylabel("learning\nrate")
