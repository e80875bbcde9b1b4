"""Draw what the accuracy study has measured so far, and write its table.

    python benchmarks/accuracy/figures.py

Reads benchmarks/results/accuracy/*.json; writes distance.png, short_transfer.png and README.md beside
them, and the table of finished models into benchmarks/results/accuracy_study.json. What has not been
measured is left out, and a line says so.
"""

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arms
from stages import STARTER, read_finished, read_plan

from hf_sparse.atomic.files import write_atomically
from hf_sparse.report.pictures import DENSE, GRAY, RATE, ZEROS, hide_frame, new_figure, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "accuracy"
TABLE = RESULTS.parent / "accuracy_study.json"
_TASKS = {"sst2": "SST-2", "qnli": "QNLI"}
# Color and marker of an arm, in the order of sparsity.
_LOOKS = ((RATE, "s"), (ZEROS, "o"), (GRAY, "^"), (DENSE, "D"))
_SIZES = ((1e6, "M"), (1e3, "k"))

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Point:
    """One measured stage: upstream tokens behind it, sparsity, what a figure shows of it, learning rate."""

    stage: str
    tokens: int
    sparsity: float
    value: float
    error: float = 0.0
    rate: str = ""


def distance_points(results: Results, last: bool) -> list[Point]:
    """Return the error of the last layer after each upstream stage, or the mean of the others."""
    points = []
    for name, row in rows(results):
        layers = [error for _, error in sorted((int(n), e) for n, e in row.get("distances", {}).items())]
        if layers and row["group"].startswith("upstream"):
            value = layers[-1] if last else sum(layers[:-1]) / max(1, len(layers) - 1)
            rate = argument(results[name], "learning_rate")
            points.append(Point(name, row["tokens"], row["sparsity"], value, rate=rate))
    return points


def transfer_points(results: Results, task: str) -> list[Point]:
    """Return the accuracy of each short transfer to a task, with the tokens of the stage it starts from."""
    points = []
    for name, row in rows(results):
        settings = results[name]["settings"]
        if not row["group"].startswith("short transfer") or settings["data"] != task or "accuracy" not in row:
            continue
        if settings["start"] == STARTER:
            continue
        if settings["start"] not in results:
            print(f"{name} is left out: results of {settings['start']}, which it starts from, are missing")
            continue
        tokens = only_row(results[settings["start"]])["tokens"]
        points.append(Point(name, tokens, row["sparsity"], row["accuracy"], row["accuracy_error"]))
    return points


def references(results: Results, task: str) -> dict[str, float]:
    """Return the accuracies on a task to compare with: dense, pruned while fine-tuning."""
    chosen = (
        (row["group"], row["accuracy"])
        for name, row in rows(results)
        if results[name]["settings"]["data"] == task and row["group"].startswith(("dense", "GMP"))
    )
    return dict(chosen)


def rows(results: Results) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, only_row(result)) for name, result in results.items())


def only_row(result: Mapping[str, Any]) -> Mapping[str, Any]:
    (row,) = result["rows"]
    return row


def argument(result: Mapping[str, Any], name: str) -> str:
    """Return what a stage was given for an argument of its script, - for nothing."""
    words = shlex.split(result["command"])
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words else "-"


def most_frequent_rate(points: Sequence[Point]) -> str:
    """Return the learning rate of the most points; of several the one whose best value is the lowest."""
    rates = {point.rate: [other.value for other in points if other.rate == point.rate] for point in points}
    return min(rates, key=lambda rate: (-len(rates[rate]), min(rates[rate])))


def by_sparsity(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Group points by the sparsity that they share, in percent, the lowest first."""
    groups: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: (point.sparsity, point.tokens)):
        groups.setdefault(percent(point.sparsity), []).append(point)
    return groups


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def looks_of(results: Results) -> dict[str, dict[str, str]]:
    """Give each sparsity a color and a marker of its own, the same in all figures."""
    # A teacher or another recipe upstream has no distances, and no curve.
    shown = [row for _, row in rows(results) if row["group"].startswith("short") or "distances" in row]
    shares = {row["sparsity"] for row in shown}
    looks = ({"color": color, "marker": marker} for color, marker in _LOOKS)
    return dict(zip(dict.fromkeys(percent(share) for share in sorted(shares)), looks, strict=False))


def distance_figure(results: Results) -> "Figure | None":
    """Draw the error of the hidden states against upstream tokens; None where nothing is measured."""
    last, others = (distance_points(results, last) for last in (True, False))
    if not last:
        return None
    figure = new_figure(6.4, 5.2)
    axes, looks = figure.subplots(), looks_of(results)
    joined = {sparsity: most_frequent_rate(group) for sparsity, group in by_sparsity(last).items()}
    for layers, points, style in (("last layer", last, "-"), ("mean of the others", others, "--")):
        for sparsity, group in by_sparsity(points).items():
            line, rest = (
                [point for point in group if (point.rate == joined[sparsity]) == kept]
                for kept in (True, False)
            )
            shown = {"markersize": 6, **looks[sparsity]}
            axes.plot(*places(line), linestyle=style, linewidth=1.8, label=f"{sparsity}, {layers}", **shown)
            # They are not points of that curve.
            axes.plot(*places(rest), linestyle="none", markerfacecolor="white", **shown)
    if any(point.rate != joined[percent(point.sparsity)] for point in last):
        hollow = {"linestyle": "none", "marker": "o", "color": GRAY, "markerfacecolor": "white"}
        axes.plot([], [], label="other learning rates", **hollow)
    tokens_axis(axes, [point.tokens for point in last])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("relative error of the hidden states\non held-out QNLI pairs")
    axes.set_title("Distance to the dense encoder", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, handlelength=3.5, frameon=False, fontsize=9)
    return figure


def transfer_figure(results: Results) -> "Figure | None":
    """Draw the accuracy of short transfers against upstream tokens; None where nothing is measured."""
    found = {task: transfer_points(results, task) for task in _TASKS}
    measured = {task: points for task, points in found.items() if points}
    if not measured:
        return None
    looks = looks_of(results)
    figure = new_figure(5 * len(measured), 4.4)
    panels = figure.subplots(1, len(measured), squeeze=False)[0]
    for axes, (task, points) in zip(panels, measured.items(), strict=True):
        axes.set_title(_TASKS[task], fontsize=11)
        for sparsity, group in by_sparsity(points).items():
            axes.errorbar(
                *places(group, 100),
                yerr=[100 * point.error for point in group],
                label=f"short transfer, {sparsity}",
                **{"markersize": 6, "linewidth": 1.8, "elinewidth": 1, "capsize": 3},
                **looks[sparsity],
            )
        for number, (name, accuracy) in enumerate(references(results, task).items()):
            style = {"color": GRAY, "linestyle": ("-", "--", ":")[min(number, 2)], "linewidth": 1.2}
            axes.axhline(100 * accuracy, label=f"{name}, {100 * accuracy:.1f}", **style)
        tokens_axis(axes, [point.tokens for point in points])
        axes.set_ylabel("accuracy, held out (%)")
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.18),
            ncols=2,
            handlelength=3,
            frameon=False,
            fontsize=9,
        )
    return figure


def places(points: Sequence[Point], scale: float = 1) -> tuple[list[int], list[float]]:
    return [point.tokens for point in points], [scale * point.value for point in points]


def tokens_axis(axes: "Axes", tokens: Sequence[int]) -> None:
    """Show tokens on a logarithmic scale that names the budgets measured."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    ticks = {short(count): count for count in sorted(tokens)}
    axes.set_xticks(list(ticks.values()), list(ticks))
    axes.set_xlim(0.75 * min(tokens), 1.35 * max(tokens))
    axes.set_xlabel("upstream tokens")
    axes.grid(alpha=0.25)
    hide_frame(axes, "top", "right")


def short(count: float) -> str:
    """Write a number of tokens to one significant digit, or two where it begins with 1: 300k, 1M, 1.5M."""
    digits = 2 if f"{count:e}".startswith("1") else 1
    rounded = float(f"{count:.{digits - 1}e}")
    size, letter = next((pair for pair in _SIZES if rounded >= pair[0]), (1, ""))
    return f"{rounded / size:g}{letter}"


def page(results: Results, order: Sequence[str], pictures: Sequence[str]) -> str:
    """Return README.md of the results: a table of all stages in the order of the plan, and the pictures."""
    numbers = {name: number for number, name in enumerate(order)}
    names = sorted(results, key=lambda name: (numbers.get(name, len(numbers)), name))
    header = "| stage | from | recipe | tokens | cpu min | sparsity | score ± standard error | last layer |"
    lines = [header, "|---|---|---|---|---|---|---|---|", *(table_row(name, results[name]) for name in names)]
    shown = [f"\n![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures]
    return "\n".join([_HEAD, *lines, *shown]) + "\n"


def table_row(name: str, result: Mapping[str, Any]) -> str:
    row = only_row(result)
    distances = row.get("distances", {})
    cells = [
        f"[{name}]({name}.json)",
        result["settings"]["start"],
        argument(result, "recipe"),
        f"{row['tokens']:,}",
        f"{row['cpu_seconds'] / 60:.1f}",
        f"{100 * row['sparsity']:.1f} %",
        score(row),
        f"{distances[max(distances, key=int)]:.3f}" if distances else "-",
    ]
    return f"| {' | '.join(cells)} |"


def score(row: Mapping[str, Any]) -> str:
    """Write the score of a task in percent with its standard error: accuracy, or F1 of answers."""
    if "accuracy" in row:
        return f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_error']:.1f}"
    # That of F1 is a bound.
    return f"F1 {row['f1']:.1f} ± {row['f1_error']:.1f}" if "f1_error" in row else "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--plan", type=Path, default=HERE / "plan.yaml")
    options = parser.parse_args()
    results = read_finished(options.results)
    if not results:
        raise SystemExit(f"{options.results} lacks results; measure some with benchmarks/accuracy/run.py")
    if missing := [name for name in read_plan(options.plan) if name not in results]:
        print(f"not measured yet: {', '.join(missing)}")
    pictures = {"distance.png": distance_figure(results), "short_transfer.png": transfer_figure(results)}
    for name, figure in pictures.items():
        if figure is None:
            print(f"{name} is not drawn: none of its stages is measured")
        else:
            write_png(figure, options.results / name)
    drawn = [name for name, figure in pictures.items() if figure is not None]
    text = page(results, list(read_plan(options.plan)), drawn)
    write_atomically(options.results / "README.md", text.encode())
    content = json.dumps(arms.study(results), indent=2, ensure_ascii=False) + "\n"
    write_atomically(options.table, content.encode())


_HEAD = """# Accuracy study

Written by `python benchmarks/accuracy/figures.py` from the files beside it, each of which has the command,
seed, recipe, hardware, versions and learning curve of its stage. Cost is processor time, what killed attempts
lost included. Sparsity is that of the encoder's weights. The score is that of the task's validation set, in
percent; its error is that of a sample of so many rows, for one seed. Last layer: the relative error of its
hidden states on held-out QNLI pairs, where 0 is a copy of the dense encoder.
"""

if __name__ == "__main__":
    main()
