"""The section "How fast it is": latencies in every runtime that was measured."""

from math import isfinite

from hf_sparse.hub.card.card_data import Facts
from hf_sparse.hub.card.escape import code, plain
from hf_sparse.hub.card.tables import Rows, markdown, paragraphs, picture
from hf_sparse.runs.latency import RUNTIMES, LatencyReport
from hf_sparse.units import counted, short, size


def speed(facts: Facts) -> str:
    """Return what was measured, nothing if no latency was."""
    if not facts.latencies:
        return ""
    measured = [
        block
        for latency in facts.latencies
        for block in (_machine(latency), markdown(_table(latency)), _notes(latency))
    ]
    return paragraphs(*measured, picture(facts, "latency.png", "Median latency of every runtime"))


def times_as_fast(latency: LatencyReport) -> str | None:
    """Return one sentence with the speed-up over the fastest other runtime, None without a gain."""
    best, rival = latency.best, latency.rival
    if best is None or rival is None or not latency.gain:
        return None
    times = f"{rival.median_ms / best.median_ms:.1f} times as fast"
    return (
        f"On {_threads(latency)} of {_article(latency.conditions.processor)} it is **{times}** in "
        f"hf_sparse's runtime as in {plain(rival.name)}."
    )


def _machine(latency: LatencyReport) -> str:
    """Return the processor, the inputs and the versions that were measured."""
    on, versions = latency.conditions, latency.machine["versions"]
    cores = counted(on.cores, "core")
    kernels = f", hf_sparse's kernels for {plain(on.kernels)}" if on.kernels else ""
    timed = [row.name.lower().replace(" ", "") for row in latency.rows]
    others = [name for name in RUNTIMES if any(row.startswith(name) for row in timed)]
    names = ("hf_sparse", "torch", "transformers", *others)
    software = ", ".join(f"{name} {plain(versions[name])}" for name in names if name in versions)
    tokens = counted(latency.length, "token")
    texts = "one text" if latency.batch == 1 else f"batches of {latency.batch} texts"
    return (
        f"Measured on {_article(on.processor)} ({cores}{kernels}), {_threads(latency)}, {texts} of "
        f"{tokens}; {software}. {code(latency.file)}:"
    )


def _table(latency: LatencyReport) -> Rows:
    """Return a row for each runtime, the fastest first."""
    rows: Rows = [("", "median", "95th percentile", "texts per second", "weight memory", "difference")]
    for row in latency.ranked:
        cells = [
            plain(row.name),
            f"{short(row.median_ms)} ms",
            f"{short(row.p95_ms)} ms",
            f"{short(latency.per_second(row))}",
            size(row.weight_bytes),
            f"{row.difference:.1e}" if isfinite(row.difference) and row.name != latency.reference else "",
        ]
        rows.append([f"**{cell}**" if row.own and cell else cell for cell in cells])
    return rows


def _notes(latency: LatencyReport) -> str:
    """Return notes: the verdict without a gain, what differences mean, what was not measured."""
    notes = [f"{plain(row.name)}: {plain(row.note)}" for row in latency.rows if row.note]
    notes += [f"Not measured: {plain(name)}: {plain(reason)}." for name, reason in latency.missing.items()]
    reference = plain(latency.reference)
    differ = f"The last column is the largest difference of any output from that of {reference}."
    said = "" if latency.gain else f"{plain(latency.verdict)} "
    return " ".join([f"{said}{differ}", *notes])


def _threads(latency: LatencyReport) -> str:
    return "one thread" if latency.threads == 1 else f"{latency.threads} threads"


def _article(processor: str) -> str:
    return f"{'an' if processor[:1].upper() in 'AEIOU' else 'a'} {plain(processor)}"
