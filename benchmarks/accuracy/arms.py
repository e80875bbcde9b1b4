"""The table of the accuracy study: a row for each way to a sparse model, a column for each task.

Everything comes from the result files of finished stages. A cell has the score in percent, its standard error
and the difference to the dense model of the same task, whose error takes both scores as independent samples.
Stages of one group and upstream budget that differ in their seeds share a cell: their mean, and how many
there are. All seeds are scored on the same examples, so more of them do not lower the standard error.
"""

import math
import re
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
COSTS = ("upstream tokens", "upstream cpu h", "task M tokens", "task cpu min")
COLUMNS = ("arm", "zeros", "bits", *TASKS.values(), *COSTS, "encoder MB", "encoder, times smaller")
# What the study compares; the start of an arm's name.
PLANNED = (DENSE, "GMP", "GMP*", "published", "transfer", "magnitude", "group Lasso", "paper's group Lasso")


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
            "tasks of a cell": " / ".join(TASKS.values()),
            "not measured yet": ", ".join(not_measured(results)) or "nothing",
        },
        "columns": list(COLUMNS),
        "rows": table(results),
        "date": newest["date"],
        "hardware": {"processors": " and ".join(processors)},
        "versions": newest["versions"],
    }


def table(results: Results) -> list[dict[str, Any]]:
    """Return the rows of the table: dense first, then by sparsity and bits, then as the stages came."""
    grouped: dict[tuple[str, float], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in results:
        if is_arm(results[name]):
            budget = round(upstream_cost(results, name)["tokens"] / 1e6, 1)
            grouped[_row(results[name])["group"], budget][results[name]["settings"]["data"]].append(name)
    for by_task in grouped.values():
        for names in by_task.values():
            require_seeds(results, names)
    dense = grouped.get((DENSE, 0.0), {})
    rows = [row_of(results, group, by_task, dense) for (group, _), by_task in grouped.items()]
    return sorted(rows, key=lambda row: (row["arm"] != DENSE, row["zeros"], -row["bits"]))


def require_seeds(results: Results, names: Sequence[str]) -> None:
    """Raise `ValueError` for two stages of a cell that have one seed, so differ in something else."""
    seeds: dict[int, str] = {}
    for name in names:
        seed = results[name]["settings"]["seed"]
        if seed in seeds:
            raise ValueError(
                f"{seeds[seed]} and {name} have the same group, upstream tokens and seed {seed}; "
                "name another group for one of them"
            )
        seeds[seed] = name


def not_measured(results: Results) -> list[str]:
    """Return the arms and tasks that no stage has measured."""
    measured = [result for result in results.values() if is_arm(result)]
    # The name of an arm ends where its sparsity begins.
    arms = {re.split(r" \d", _row(result)["group"])[0] for result in measured}
    tasks = {result["settings"]["data"] for result in measured}
    missing = [arm for arm in PLANNED if arm not in arms]
    return missing + [shown for task, shown in TASKS.items() if task not in tasks]


def is_arm(result: Mapping[str, Any]) -> bool:
    """Return whether a stage ends with a model for a task."""
    return not _row(result)["group"].startswith(_UNFINISHED) and result["settings"]["data"] in TASKS


def row_of(
    results: Results,
    group: str,
    by_task: Mapping[str, Sequence[str]],
    dense: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return the row of one arm; what is not measured is left out."""
    names = [name for chosen in by_task.values() for name in chosen]
    first = results[names[0]]
    upstream = [upstream_cost(results, name) for name in names]
    cells = {
        TASKS[task]: cell(results, by_task[task], () if group == DENSE else dense.get(task, ()))
        for task in TASKS
        if task in by_task
    }

    def by_columns(of: str, unit: float, digits: int) -> str:
        costs = {
            task: fmean(
                sum(_row(results[stage])[of] for stage in own_stages(results, name)) / unit for name in chosen
            )
            for task, chosen in by_task.items()
        }
        return " / ".join(f"{costs[task]:.{digits}f}" if task in costs else "-" for task in TASKS)

    return {
        "arm": group,
        "zeros": f"{100 * _row(first)['sparsity']:.0f} %",
        "bits": bits_of(first),
        **cells,
        "upstream tokens": round(fmean(cost["tokens"] for cost in upstream)) or None,
        "upstream cpu h": round(fmean(cost["cpu_seconds"] for cost in upstream) / 3600, 2) or None,
        "task M tokens": by_columns("tokens", 1e6, 1),
        "task cpu min": by_columns("cpu_seconds", 60, 0),
        **size_of(results, names),
    }


def bits_of(result: Mapping[str, Any]) -> int:
    """Return the bits of a weight of the encoder: 4 or 8 of quantized ones, 32 of others."""
    quantization = result["settings"]["recipe"].get("quantization")
    if not quantization:
        return 32
    return 4 if str(quantization.get("weights", "")).startswith("int4") else 8


def upstream_cost(results: Results, name: str) -> dict[str, float]:
    """Return tokens and processor seconds of the stages that lie before all tasks."""
    stages = [_row(results[stage]) for stage in chain(results, name) if _is_upstream(results[stage])]
    return {key: sum(row[key] for row in stages) for key in ("tokens", "cpu_seconds")}


def size_of(results: Results, names: Iterable[str]) -> dict[str, float]:
    """Return how large the packed encoder is, the mean of the tasks; nothing where it was not measured."""
    rows = [_row(results[name]) for name in names if "encoder_bytes" in _row(results[name])]
    if not rows:
        return {}
    packed, dense = (fmean(row[key] for row in rows) for key in ("encoder_bytes", "encoder_dense_bytes"))
    return {"encoder MB": round(packed / 1e6, 2), "encoder, times smaller": round(dense / packed, 1)}


def cell(results: Results, names: Sequence[str], dense: Sequence[str]) -> str:
    """Write the mean score of some seeds with its error, and the difference to that of dense models."""
    found, errors = scores(results, names), scores(results, names, "_error")
    said = f"{fmean(found):.1f} ± {max(errors):.1f}"
    if dense:
        error = math.hypot(max(errors), max(scores(results, dense, "_error")))
        said += f" ({fmean(found) - fmean(scores(results, dense)):+.1f} ± {error:.1f})"
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


def _row(result: Mapping[str, Any]) -> Mapping[str, Any]:
    (row,) = result["rows"]
    return row
