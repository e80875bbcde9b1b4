"""The section "How fast it is": latencies in every runtime that was measured."""

from hf_sparse.hub.cards.escaping import code, plain
from hf_sparse.hub.cards.facts import Facts, Latency
from hf_sparse.hub.cards.tables import Rows, markdown, paragraphs, picture
from hf_sparse.report.tables import size


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


def times_as_fast(latency: Latency) -> str | None:
    """Return one sentence with the speed-up over the fastest other runtime, None if there is no gain."""
    best, rival = latency.best, latency.rival
    if best is None or rival is None or not latency.gain:
        return None
    times = f"{rival.median_ms / best.median_ms:.1f} times as fast"
    return (
        f"On {_threads(latency)} of {_article(latency.processor)} it is **{times}** in hf_sparse's runtime "
        f"as in {plain(rival.name)}."
    )


def _machine(latency: Latency) -> str:
    """Return the processor, the inputs and the versions that were measured."""
    cores = "1 core" if latency.cores == 1 else f"{latency.cores} cores"
    kernels = f", hf_sparse's kernels for {plain(latency.kernels)}" if latency.kernels else ""
    timed = [row.name.lower().replace(" ", "") for row in latency.rows]
    others = [name for name in ("onnxruntime", "openvino") if any(row.startswith(name) for row in timed)]
    names = ("hf_sparse", "torch", "transformers", *others)
    software = ", ".join(
        f"{name} {plain(latency.versions[name])}" for name in names if name in latency.versions
    )
    tokens = "1 token" if latency.length == 1 else f"{latency.length} tokens"
    texts = "one text" if latency.batch == 1 else f"batches of {latency.batch} texts"
    return (
        f"Measured on {_article(latency.processor)} ({cores}{kernels}), {_threads(latency)}, {texts} of "
        f"{tokens}; {software}. {code(latency.file)}:"
    )


def _table(latency: Latency) -> Rows:
    """Return a row for each runtime, the fastest first."""
    rows: Rows = [("", "median", "95th percentile", "texts per second", "weight memory", "difference")]
    for row in sorted(latency.rows, key=lambda row: row.median_ms):
        differs = row.largest_difference
        cells = [
            plain(row.name),
            f"{_short(row.median_ms)} ms",
            f"{_short(row.p95_ms)} ms",
            f"{_short(row.sequences_per_second)}",
            size(row.weight_bytes),
            "" if differs is None or row.name == latency.reference else f"{differs:.1e}",
        ]
        rows.append([f"**{cell}**" if row.ours and cell else cell for cell in cells])
    return rows


def _notes(latency: Latency) -> str:
    """Return the verdict if there is no gain, what differences mean, and what was not measured."""
    notes = [f"{plain(row.name)}: {plain(row.note)}" for row in latency.rows if row.note]
    notes += [f"Not measured: {plain(name)}: {plain(reason)}." for name, reason in latency.missing.items()]
    reference = plain(latency.reference)
    differ = f"The last column is the largest difference of any output from that of {reference}."
    said = "" if latency.gain else f"{plain(latency.verdict)} "
    return " ".join([f"{said}{differ}", *notes])


def _threads(latency: Latency) -> str:
    return "one thread" if latency.threads == 1 else f"{latency.threads} threads"


def _article(processor: str) -> str:
    return f"{'an' if processor[:1].upper() in 'AEIOU' else 'a'} {plain(processor)}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.1f}" if number >= 100 else f"{number:.2f}"
