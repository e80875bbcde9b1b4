"""What the page says, ready to be laid out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hf_sparse.report.comparison import Comparison, megabytes, milliseconds, notes_of, score_text
from hf_sparse.report.measured import OWN, MeasuredRun
from hf_sparse.report.page.cells import HeatMap, heat_maps
from hf_sparse.report.page.sentences import percent, result_of
from hf_sparse.report.tables import duration
from hf_sparse.training.record import fact_text, public_name

# Of a run's scores on its card: the one that is compared, then others.
_MOST_SCORES = 4
# Of runs in the title.
_MOST_NAMED = 2
# Of names in a list of runs.
_MOST_LETTERS = 60


@dataclass(frozen=True)
class Card:
    """A run in brief: what it did, in phrases, then numbers by their names; `share` of zeros, if known.

    `again` if it has been shown before, as a stage of another line.
    """

    name: str
    anchor: str
    phrases: tuple[str, ...]
    facts: Mapping[str, str]
    share: float | None
    again: bool = False


@dataclass(frozen=True)
class Section:
    """All there is about one run besides its figures."""

    card: Card
    maps: Sequence[HeatMap]
    rest: Sequence[tuple[str, str]]
    recipe: str
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """A run in the table of comparison: its number in the figures, its cells by their headings."""

    number: int
    name: str
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Page:
    """The whole page but for its figures; `lines` of stages, `alone` runs without new stages before them."""

    title: str
    result: str
    lines: Sequence[Sequence[Card]]
    alone: Sequence[Card]
    rows: Sequence[Row]
    notes: Sequence[str]
    differences: Mapping[str, Mapping[str, str]]
    sections: Sequence[Section]
    machines: Sequence[tuple[str, Mapping[str, str]]]


def page_of(comparison: Comparison, lines: Sequence[Sequence[MeasuredRun]]) -> Page:
    """Collect what the page says of runs and of the lines of stages that led to them."""
    ends = [line[-1] for line in lines]
    shown = list({run.name: run for line in lines for run in line}.values())
    title = " and ".join(run.name for run in ends) if len(ends) <= _MOST_NAMED else f"{len(shown)} runs"
    connected, alone = split_lines(lines)
    several = len(comparison.runs) > 1
    return Page(
        title,
        result_of(comparison, ends[0] if len(ends) == 1 else None),
        _cards(comparison, connected),
        [card_of(run, comparison) for run in alone],
        [_row(number, run, comparison) for number, run in comparison.numbered] if several else [],
        notes_of(comparison),
        {
            name: {value: _listed(runs, comparison) for value, runs in values.items()}
            for name, values in comparison.differences.items()
        },
        [_section(run, comparison) for run in shown],
        _machines(comparison.runs),
    )


def split_lines(
    lines: Sequence[Sequence[MeasuredRun]],
) -> tuple[list[Sequence[MeasuredRun]], list[MeasuredRun]]:
    """Return the lines that show more than one new stage, and the one new run of each of the others."""
    shown, alone, seen = [], [], set()
    for line in lines:
        new = {run.name for run in line} - seen
        if len(new) > 1:
            shown.append(line)
        else:
            alone.append(line[-1])
        seen |= new
    return shown, alone


def _listed(runs: Sequence[MeasuredRun], comparison: Comparison) -> str:
    """Name runs, by their numbers where the names are long."""
    names = ", ".join(run.name for run in runs)
    numbers = ", ".join(f"{number}" for number, run in comparison.numbered if run in runs)
    return names if len(names) <= _MOST_LETTERS else numbers


def _cards(comparison: Comparison, lines: Sequence[Sequence[MeasuredRun]]) -> list[list[Card]]:
    seen: set[str] = set()
    cards = []
    for line in lines:
        cards.append([replace(card_of(run, comparison), again=run.name in seen) for run in line])
        seen |= {run.name for run in line}
    return cards


# Of characters, each up to four of the 255 bytes that a name may have.
_LONGEST_NAME = 48


def file_name(name: str) -> str:
    """Return the name of a run as a part of the name of a file."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:_LONGEST_NAME] or "run"


def card_of(run: MeasuredRun, comparison: Comparison) -> Card:
    """Return a run in brief."""
    anchor = f"run-{comparison.runs.index(run) + 1}"
    return Card(run.name, anchor, tuple(_phrases(run)), _facts(run, comparison), run.sparsity)


def _phrases(run: MeasuredRun) -> list[str]:
    record, recipe = run.run.record, run.run.recipe
    if record is None:
        return []
    base, teacher = record.get("base_model"), record.get("teacher")
    said = [f"from {public_name(base)}" if base else "from random weights"]
    if (sparsity := recipe.sparsity) is not None and sparsity.schedule is not None:
        said.append(
            f"pruned to {100 * sparsity.schedule.final:.4g} % by {sparsity.method.replace('_', ' ')}, "
            f"{sparsity.pattern}"
        )
    elif sparsity is not None:
        said.append("zeros locked")
    if recipe.distillation is not None:
        own = recipe.distillation.teacher == "self"
        said.append(
            "taught by a copy of itself"
            if own
            else f"taught by {public_name(teacher) if teacher else 'a teacher'}"
        )
    if (quantization := recipe.quantization) is not None:
        said.append(f"weights {quantization.weights}, inputs {quantization.activations}")
    return said if len(said) > 1 else [*said, "trained without pruning"]


def _facts(run: MeasuredRun, comparison: Comparison) -> dict[str, str]:
    record = run.run.record or {}
    facts: dict[str, str] = {}
    if record.get("step"):
        step, total = record["step"], record.get("total_steps")
        facts["steps"] = f"{step:,}" if total in (None, step) else f"{step:,} of {total:,}"
    if record.get("train_samples"):
        facts["examples"] = f"{record['train_samples']:,}"
    if record.get("seconds"):
        seconds = record["seconds"]
        facts["time"] = f"{seconds:.1f} s" if seconds < 60 else f"{duration(seconds)} min"
    if run.sparsity is not None:
        facts["zeros"] = percent(run.sparsity)
        if run.pattern:
            facts["pattern"] = run.pattern
    scores = sorted(
        run.run.scores.items(), key=lambda item: item[0] != (run.yardstick and run.yardstick.metric)
    )
    facts |= {name.replace("_", " "): score_text(score) for name, score in scores[:_MOST_SCORES]}
    if run.run.samples is not None and scores:
        facts["scored on"] = f"{run.run.samples:,} examples"
    for form, taken in run.files.items():
        facts["weights" if form == OWN else form] = f"{megabytes(taken)} MB"
    if (taken := comparison.latency(run)) is not None:
        facts["latency"] = f"{milliseconds(taken)} ms"
    return facts


def _row(number: int, run: MeasuredRun, comparison: Comparison) -> Row:
    others = [taken for form, taken in run.files.items() if form != OWN]
    metrics = {yardstick.name for yardstick in comparison.groups if yardstick is not None}
    heading, unit = (
        (metrics.pop(), "") if len(metrics) == 1 else ("score", run.yardstick and f" {run.yardstick.name}")
    )
    cells = {
        "zeros": run.sparsity is not None and percent(run.sparsity),
        "pattern": run.pattern,
        heading: run.score is not None and f"{score_text(run.score)}{unit}",
        "weights, MB": OWN in run.files and megabytes(run.files[OWN]),
        "packed, MB": others and megabytes(min(others)),
        "latency, ms": (taken := comparison.latency(run)) is not None and milliseconds(taken),
    }
    return Row(number, run.name, {heading: cell or "" for heading, cell in cells.items()})


def _section(run: MeasuredRun, comparison: Comparison) -> Section:
    maps, rest = heat_maps(run.weights)
    record = run.run.record or {}
    recipe = run.run.recipe
    settings = {name.replace("_", " "): f"{value}" for name, value in record.get("arguments", {}).items()}
    settings |= {name.replace("_", " "): fact_text(value) for name, value in record.get("facts", {}).items()}
    return Section(
        card_of(run, comparison),
        maps,
        rest,
        recipe.to_yaml().strip() if recipe.to_dict() else "",
        {name: value for name, value in settings.items() if value != "None"},
    )


def _machines(runs: Sequence[MeasuredRun]) -> list[tuple[str, Mapping[str, str]]]:
    """Return every machine with its software, with the names of the runs that were trained on it."""
    found: dict[tuple, list[str]] = {}
    for run in runs:
        if (record := run.run.record) is not None:
            found.setdefault(_machine(record), []).append(run.name)
    return [(", ".join(names) if len(found) > 1 else "", dict(machine)) for machine, names in found.items()]


def _machine(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    known = {name.replace("_", " "): f"{value}" for name, value in record.get("hardware", {}).items()}
    return tuple((known | {name: f"{value}" for name, value in record.get("versions", {}).items()}).items())
