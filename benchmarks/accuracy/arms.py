"""The table of the accuracy study: a row for each way to a sparse model, a column for each task.

Everything comes from the result files of finished stages. A cell has the score in percent, its standard error
and the difference to the dense model of the same task; of several seeds the mean, and how many there are.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from stages import ENCODER

Results = Mapping[str, Mapping[str, Any]]

TASKS = {"sst2": "SST-2", "qnli": "QNLI", "mnli": "MNLI", "squad": "SQuAD F1"}
DENSE = "dense"
# Stages that are no way to a finished model: the first half of one, and one that is cut short.
_UNFINISHED = ("upstream", "short transfer")
COLUMNS = ("arm", "zeros", "bits", *TASKS.values(), "upstream tokens", "upstream cpu h", "task cpu min")


def study(results: Results) -> dict[str, Any]:
    """Return the table as the content of a result file, with the machines of all stages."""
    origin = [result for result in results.values() if is_arm(result)]
    processors = dict.fromkeys(result["hardware"]["processor"] for result in origin)
    newest = max(origin, key=lambda result: result["date"])
    return {
        "name": "accuracy_study",
        "title": "The accuracy study",
        "command": "python benchmarks/accuracy/run.py --encoder ENCODER --data DATA",
        "settings": {
            "encoder": newest["settings"]["encoder"],
            "error": "standard error of one validation set",
            "task cpu min": " / ".join(TASKS.values()),
        },
        "columns": list(COLUMNS),
        "rows": table(results),
        "date": newest["date"],
        "hardware": {"processors": " and ".join(processors)},
        "versions": newest["versions"],
    }


def table(results: Results) -> list[dict[str, Any]]:
    """Return the rows of the table: dense first, then by sparsity, then as the stages came."""
    grouped: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in results:
        if is_arm(results[name]):
            grouped[_row(results[name])["group"]][results[name]["settings"]["data"]].append(name)
    dense = {task: fmean(scores(results, names)) for task, names in grouped.get(DENSE, {}).items()}
    rows = [row_of(results, group, by_task, dense) for group, by_task in grouped.items()]
    return sorted(rows, key=lambda row: (row["arm"] != DENSE, row["zeros"]))


def is_arm(result: Mapping[str, Any]) -> bool:
    """Return whether a stage ends with a model for a task."""
    return not _row(result)["group"].startswith(_UNFINISHED) and result["settings"]["data"] in TASKS


def row_of(
    results: Results, group: str, by_task: Mapping[str, Sequence[str]], dense: Mapping[str, float]
) -> dict[str, Any]:
    """Return the row of one arm; what is not measured is left out."""
    names = [name for chosen in by_task.values() for name in chosen]
    first = results[names[0]]
    upstream = {stage for name in names for stage in chain(results, name) if _is_upstream(results[stage])}
    cells = {
        TASKS[task]: cell(results, by_task[task], None if group == DENSE else dense.get(task))
        for task in TASKS
        if task in by_task
    }
    minutes = {
        task: fmean(
            sum(_row(results[stage])["cpu_seconds"] for stage in own_stages(results, name)) / 60
            for name in chosen
        )
        for task, chosen in by_task.items()
    }
    return {
        "arm": group,
        "zeros": f"{100 * _row(first)['sparsity']:.0f} %",
        "bits": 8 if first["settings"]["recipe"].get("quantization") else 32,
        **cells,
        "upstream tokens": sum(_row(results[stage])["tokens"] for stage in upstream) or None,
        "upstream cpu h": _hours(_row(results[stage])["cpu_seconds"] for stage in upstream),
        "task cpu min": " / ".join(f"{minutes[task]:.0f}" if task in minutes else "-" for task in TASKS),
    }


def cell(results: Results, names: Sequence[str], dense: float | None) -> str:
    """Write the mean score of some seeds with its standard error and the difference to the dense model."""
    found, errors = scores(results, names), scores(results, names, "_error")
    said = f"{fmean(found):.1f} ± {max(errors):.1f}"
    if dense is not None:
        said += f" ({fmean(found) - dense:+.1f})"
    if len(names) > 1:
        said += f", {len(names)} seeds, {min(found):.1f} to {max(found):.1f}"
    return said


def scores(results: Results, names: Iterable[str], suffix: str = "") -> list[float]:
    """Return the scores of stages in percent, accuracy or F1 of answers, or with `_error` their errors."""
    rows = [_row(results[name]) for name in names]
    # F1 is in percent already.
    return [100 * row[f"accuracy{suffix}"] if "accuracy" in row else row[f"f1{suffix}"] for row in rows]


def chain(results: Results, name: str) -> Iterator[str]:
    """Return a stage and those it came from, the last one first."""
    while name != ENCODER and name in results:
        yield name
        name = results[name]["settings"]["start"]


def own_stages(results: Results, name: str) -> list[str]:
    """Return the stages of a task that led to a model: without those that all tasks share."""
    return [stage for stage in chain(results, name) if not _is_upstream(results[stage])]


def _is_upstream(result: Mapping[str, Any]) -> bool:
    return _row(result)["group"].startswith("upstream")


def _hours(seconds: Iterator[float]) -> float | None:
    total = sum(seconds)
    return round(total / 3600, 2) if total else None


def _row(result: Mapping[str, Any]) -> Mapping[str, Any]:
    (row,) = result["rows"]
    return row
