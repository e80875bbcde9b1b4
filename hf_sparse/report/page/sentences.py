"""The result of runs in a sentence or two."""

from hf_sparse import units
from hf_sparse.report.comparison import score_text
from hf_sparse.runs.comparison import Comparison
from hf_sparse.runs.measured_run import OWN, MeasuredRun
from hf_sparse.runs.score_text import lower_is_better
from hf_sparse.units import megabytes, milliseconds


def percent(share: float) -> str:
    """Write a share in percent, with a space that does not break."""
    return units.percent(share, "\u00a0")


def capital(text: str) -> str:
    """Return a text with a capital letter first."""
    return text[:1].upper() + text[1:]


def result_of(comparison: Comparison, chosen: MeasuredRun | None = None) -> str:
    """Return the result in measured numbers: of the chosen run, else of the runs that compare."""
    runs = comparison.runs
    if chosen is None and len(runs) == 1:
        chosen = runs[0]
    if chosen is not None:
        sentences = [f"{capital(_portrait(chosen, comparison, whole=True))}."]
        beside = [run for run in comparison.groups[chosen.yardstick] if run.dense and run is not chosen]
        if chosen.yardstick is not None and not chosen.dense and beside:
            sentences.append(f"For comparison, {beside[0].name}: {_portrait(beside[0], comparison)}.")
        return _with_conditions(sentences, comparison)
    yardstick, compared = max(comparison.groups.items(), key=lambda item: (item[0] is not None, len(item[1])))
    if yardstick is None or len(compared) < 2:
        return f"{len(runs)} runs, whose scores cannot be compared."
    lower = lower_is_better(yardstick.metric)
    best = min(compared, key=lambda run: ((run.score or 0.0) * (1 if lower else -1), _least(run)))
    sentences = [
        f"Of {len(compared)} runs scored by {yardstick}, {best.name} has the "
        f"{'lowest' if lower else 'highest'}: {_portrait(best, comparison)}."
    ]
    smallest = min(compared, key=_least)
    if _least(smallest) < _least(best):
        sentences.append(f"The smallest file is that of {smallest.name}: {_portrait(smallest, comparison)}.")
    return _with_conditions(sentences, comparison)


def _with_conditions(sentences: list[str], comparison: Comparison) -> str:
    if any(" ms" in sentence for sentence in sentences):
        sentences.append(f"Latencies are for {comparison.conditions}.")
    return " ".join(sentences)


def _least(run: MeasuredRun) -> float:
    return run.smallest[1] if run.smallest else float("inf")


def _portrait(run: MeasuredRun, comparison: Comparison, whole: bool = False) -> str:
    parts = []
    if run.score is not None and run.yardstick is not None:
        parts.append(f"{run.yardstick.name} {score_text(run.score)}{run.yardstick.basis if whole else ''}")
    if run.dense:
        parts.append("dense")
    elif run.sparsity is not None:
        parts.append(f"{percent(run.sparsity)} zeros in the weights of its layers ({run.pattern})")
    if run.smallest is not None:
        form, taken = run.smallest
        parts.append(f"{megabytes(taken)} MB{'' if form == OWN else f' ({form})'}")
    if (latency := comparison.latency(run)) is not None:
        parts.append(f"{milliseconds(latency)} ms")
    return ", ".join(parts) or "nothing was measured of it"
