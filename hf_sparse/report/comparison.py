"""Measured runs side by side: which of them can be compared, what differs between them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hf_sparse.recipe import Recipe
from hf_sparse.report.measured import OWN, Conditions, MeasuredRun, Yardstick, measure_run, names_of
from hf_sparse.report.run import Run
from hf_sparse.report.tables import narrow_table
from hf_sparse.training.record import public_name

# What is compared of a record besides recipe and arguments, under the names that are shown.
_FACTS = {
    "base_model": "base model",
    "teacher": "teacher",
    "total_steps": "steps",
    "train_samples": "examples",
}
_ABSENT = "-"


@dataclass(frozen=True)
class Comparison:
    """Runs that are shown together, in their order.

    `groups` holds those whose scores can be compared, None those without scores; `conditions` what the
    latencies that are compared were measured on, None where there are none; `differences` for every setting
    that differs its values, and the runs that have each.
    """

    runs: tuple[MeasuredRun, ...]

    @property
    def numbered(self) -> list[tuple[int, MeasuredRun]]:
        """The runs with the numbers that stand for them in figures."""
        return list(enumerate(self.runs, start=1))

    @property
    def groups(self) -> dict[Yardstick | None, list[MeasuredRun]]:
        found: dict[Yardstick | None, list[MeasuredRun]] = {}
        for run in self.runs:
            found.setdefault(run.yardstick, []).append(run)
        return found

    @property
    def conditions(self) -> Conditions | None:
        """Those of most runs."""
        counts = Counter(conditions for run in self.runs for conditions in run.latencies)
        return counts.most_common(1)[0][0] if counts else None

    @property
    def elsewhere(self) -> list[MeasuredRun]:
        """The runs whose latencies were all measured under other conditions."""
        return [run for run in self.runs if run.latencies and self.conditions not in run.latencies]

    @property
    def differences(self) -> dict[str, dict[str, list[MeasuredRun]]]:
        settings = {run.name: _settings(run) for run in self.runs if run.run.record}
        names = dict.fromkeys(name for found in settings.values() for name in found)
        differing: dict[str, dict[str, list[MeasuredRun]]] = {}
        for name in sorted(names, key=_part):
            values: dict[str, list[MeasuredRun]] = {}
            for run in self.runs:
                if name in settings.get(run.name, ()):
                    values.setdefault(settings[run.name][name], []).append(run)
            if len(values) > 1 or sum(map(len, values.values())) < len(settings):
                differing[name] = values
        return differing

    def latency(self, run: MeasuredRun) -> float | None:
        """Return the milliseconds of a run under the conditions that are compared."""
        return run.latencies.get(self.conditions)


def _settings(run: MeasuredRun) -> dict[str, str]:
    record = run.run.record
    facts = {
        shown: public_name(value) if isinstance(value := record.get(name), str) else value
        for name, shown in _FACTS.items()
    }
    known = facts | dict(_flat(record["recipe"])) | dict(record.get("arguments", {}))
    return {name: f"{value}" for name, value in known.items() if value is not None}


def _part(name: str) -> int:
    """Rank a setting by the part of the recipe it is in, those of training before all of them."""
    return [*Recipe.model_fields, name.partition(".")[0]].index(name.partition(".")[0]) if "." in name else -1


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        pairs += (
            _flat(value, f"{before}{name}.")
            if isinstance(value, dict) and value
            else [(before + name, value)]
        )
    return pairs


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Measure runs, under names that tell them apart; raises as `measure_run` does."""
    return Comparison(tuple(map(measure_run, runs, names_of(runs))))


def comparison_as_dict(comparison: Comparison) -> dict[str, Any]:
    """Return everything that is compared as JSON takes it."""
    return {
        "runs": [run_as_dict(run, comparison) for run in comparison.runs],
        "conditions": comparison.conditions and vars(comparison.conditions),
        "differences": {
            name: [{"value": value, "runs": [run.name for run in runs]} for value, runs in values.items()]
            for name, values in comparison.differences.items()
        },
    }


def run_as_dict(run: MeasuredRun, comparison: Comparison) -> dict[str, Any]:
    """Return what was measured of one run; what is not finite gives None."""
    return {
        "run": run.name,
        "step": (run.run.record or {}).get("step"),
        "seconds": (run.run.record or {}).get("seconds"),
        "sparsity": run.sparsity,
        "pattern": run.pattern,
        "compared_by": run.yardstick and vars(run.yardstick),
        "score": run.score,
        "scores": dict(run.run.scores),
        "bytes": dict(run.files),
        "milliseconds": comparison.latency(run),
    }


def print_runs(comparison: Comparison, console: Console) -> None:
    """Print what was measured of runs within 80 columns."""
    for yardstick, runs in comparison.groups.items():
        console.print("", _table(yardstick, runs, comparison))
    console.print()
    for note in notes_of(comparison):
        console.print(note, highlight=False, markup=False)


def print_differences(comparison: Comparison, console: Console) -> None:
    """Print the settings that differ within 80 columns, nothing where none does."""
    if comparison.differences:
        console.print("\nWhat differs; runs that are not named have no such setting:\n")
        console.print(_difference_table(comparison))


def notes_of(comparison: Comparison) -> list[str]:
    """Say what scores and latencies were measured by, and which of them are not comparable."""
    notes = []
    yardsticks = [yardstick for yardstick in comparison.groups if yardstick is not None]
    if len(yardsticks) == 1:
        notes.append(f"Scores: {yardsticks[0]}.")
    elif yardsticks:
        notes.append(
            "Scores are not comparable between models for different tasks, nor between metrics, data sets or "
            "numbers of examples: "
            + "; ".join(
                f"{', '.join(run.name for run in comparison.groups[yardstick])} by {yardstick}"
                + (f" ({yardstick.head})" if yardstick.head else "")
                for yardstick in yardsticks
            )
            + "."
        )
    if comparison.conditions is not None:
        notes.append(f"Milliseconds: median for {comparison.conditions}.")
    if comparison.elsewhere:
        names = ", ".join(run.name for run in comparison.elsewhere)
        notes.append(f"Measured under other conditions, hence left out: the latency of {names}.")
    return notes


def _table(yardstick: Yardstick | None, runs: Sequence[MeasuredRun], comparison: Comparison) -> Table:
    every = comparison.runs
    metric = "score" if yardstick is None else yardstick.name
    packed = any(set(run.files) - {OWN} for run in every)
    headings = ["zeros", "pattern", metric, "file\nMB", *(["packed\nMB"] if packed else []), "ms"]
    table = narrow_table("run", *map(escape, headings))
    table.columns[0].no_wrap, table.columns[0].overflow, table.columns[0].max_width = False, "fold", 26
    for run in runs:
        others = [taken for form, taken in run.files.items() if form != OWN]
        cells = [
            _ABSENT if run.sparsity is None else f"{run.sparsity:.1%}",
            run.pattern or _ABSENT,
            _ABSENT if run.score is None else score_text(run.score),
            megabytes(run.files[OWN]) if OWN in run.files else _ABSENT,
            *([megabytes(min(others)) if others else _ABSENT] if packed else []),
            _ABSENT if (taken := comparison.latency(run)) is None else milliseconds(taken),
        ]
        table.add_row(escape(run.name), *map(escape, cells))
    return table


def _difference_table(comparison: Comparison) -> Table:
    table = narrow_table("setting", "value", "runs")
    for column in table.columns:
        column.no_wrap, column.overflow, column.justify, column.vertical = False, "fold", "left", "top"
    for name, values in comparison.differences.items():
        for place, (value, runs) in enumerate(values.items()):
            cells = ("" if place else name, value, ", ".join(run.name for run in runs))
            table.add_row(*map(escape, cells))
    return table


def score_text(score: float) -> str:
    """Write a score with four digits that count, so that those of one kind line up."""
    return f"{score:.4f}" if abs(score) < 10 else f"{score:,.2f}"


def milliseconds(taken: float) -> str:
    """Write milliseconds with three digits that count."""
    return f"{taken:,.0f}" if taken >= 100 else f"{taken:.3g}"


def megabytes(count: int) -> str:
    """Write bytes as decimal megabytes."""
    decimals = 3 if count < 1e6 else 2 if count < 1e7 else 1
    return f"{count / 1e6:,.{decimals}f}"
