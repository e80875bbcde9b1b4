"""Runs side by side: which of them can be compared, and what differs between them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from hf_sparse.checkpoint.run_record import public_name
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.runs.latency import Conditions
from hf_sparse.runs.measured_run import (
    MeasuredRun,
    Yardstick,
    lines_of,
    measure_run,
    names_of,
    teachers_of,
)
from hf_sparse.runs.run import SavedRun

# Entries of a record that are compared besides recipe and arguments, with the names that are shown.
_FACTS = {
    "base_model": "base model",
    "teacher": "teacher",
    "total_steps": "steps",
    "train_samples": "examples",
}


@dataclass(frozen=True)
class Comparison:
    """Runs that are shown together, in their order."""

    runs: tuple[MeasuredRun, ...]

    @property
    def numbered(self) -> list[tuple[int, MeasuredRun]]:
        """The runs with their numbers in figures, from 1."""
        return list(enumerate(self.runs, start=1))

    @property
    def groups(self) -> dict[Yardstick | None, list[MeasuredRun]]:
        """The runs by their yardsticks: scores of one group can be compared; None has runs without scores."""
        found: dict[Yardstick | None, list[MeasuredRun]] = {}
        for run in self.runs:
            found.setdefault(run.yardstick, []).append(run)
        return found

    @property
    def conditions(self) -> Conditions | None:
        """The conditions that most runs' latencies were measured under, None without latencies."""
        counts = Counter(conditions for run in self.runs for conditions in run.latencies)
        return counts.most_common(1)[0][0] if counts else None

    @property
    def elsewhere(self) -> list[MeasuredRun]:
        """The runs whose latencies were all measured under other conditions."""
        return [run for run in self.runs if run.latencies and self.conditions not in run.latencies]

    @property
    def differences(self) -> dict[str, dict[str, list[MeasuredRun]]]:
        """The settings that differ: for each its values, and for each value the runs that have it."""
        settings = {run.name: _settings(run.run.record) for run in self.runs if run.run.record}
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
        return None if self.conditions is None else run.latencies.get(self.conditions)


def _settings(record: Mapping[str, Any]) -> dict[str, str]:
    facts = {
        shown: public_name(value) if isinstance(value := record.get(name), str) else value
        for name, shown in _FACTS.items()
    }
    known = facts | dict(_flat(record["recipe"])) | dict(record.get("arguments", {}))
    return {name: f"{value}" for name, value in known.items() if value is not None}


def _part(name: str) -> int:
    """Return the sort key of a setting: training arguments first, then the parts of the recipe."""
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


def compare_runs(runs: Sequence[SavedRun]) -> Comparison:
    """Measure runs under unique names; raises what `measure_run` raises."""
    return Comparison(tuple(map(measure_run, runs, names_of(runs))))


def comparison_as_dict(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON takes it."""
    return {
        "runs": [run_as_dict(run, comparison) for run in comparison.runs],
        "conditions": comparison.conditions and vars(comparison.conditions),
        "differences": {
            name: [{"value": value, "runs": [run.name for run in runs]} for value, runs in values.items()]
            for name, values in comparison.differences.items()
        },
    }


def run_as_dict(run: MeasuredRun, comparison: Comparison) -> dict[str, Any]:
    """Return the measurements of one run as JSON takes them."""
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


@dataclass(frozen=True)
class Lineage:
    """Runs with the runs they started from: all in `comparison`, and every pipeline as a line of stages."""

    comparison: Comparison
    lines: Sequence[Sequence[MeasuredRun]]

    @property
    def stages(self) -> list[MeasuredRun]:
        """Every run of a line once."""
        return list({run.name: run for line in self.lines for run in line}.values())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON takes it; a logged number that is not finite gives None."""
        return comparison_as_dict(self.comparison) | {
            "lines": [[run.name for run in line] for line in self.lines],
            "logs": {
                run.name: [
                    {key: value if isfinite(value) else None for key, value in row.items()}
                    for row in run.run.log
                ]
                for run in self.stages
            },
        }


def trace_runs(runs: Sequence[SavedRun]) -> Lineage:
    """Measure runs, those they started from and their teachers, as far as these lie on this machine."""
    lines = lines_of(runs)
    stages = [run for line in lines for run in line]
    known = {run.directory.resolve(): run for run in [*stages, *teachers_of(stages)]}
    order = sorted(known.values(), key=lambda run: (run.record or {}).get("date") or "")
    measured = dict(
        zip((run.directory.resolve() for run in order), map(measure_run, order, names_of(order)), strict=True)
    )
    chosen = [[measured[run.directory.resolve()] for run in line] for line in lines]
    return Lineage(Comparison(tuple(measured.values())), chosen)
