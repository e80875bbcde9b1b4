"""The tables of a card as rows of text, the head first."""

from collections.abc import Sequence
from math import isfinite

from hf_sparse.hub.cards.escaping import plain
from hf_sparse.hub.cards.facts import Facts
from hf_sparse.runs.latency import LatencyReport
from hf_sparse.runs.score_text import change, title, written
from hf_sparse.units import DENSE_BELOW, percent, short, size

Rows = list[Sequence[str]]


def markdown(rows: Rows) -> str:
    """Write a table whose columns after the first hold numbers; empty columns are left out.

    Cells are Markdown, in which texts from elsewhere are escaped already.
    """
    kept = [index for index in range(len(rows[0])) if index == 0 or any(row[index] for row in rows[1:])]
    lines = [[row[index] for index in kept] for row in rows]
    rule = ["---", *["--:"] * (len(kept) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))


def summary(facts: Facts) -> Rows:
    """Put scores, zeros, size beside those of the dense model."""
    dense, small = facts.dense, facts.small
    heads = (dense_title(facts), "this model", "difference") if dense else ("", "this model", "")
    rows: Rows = [("", *heads)]
    theirs = dense.scores.values if dense else {}
    for name, value in facts.scores.values.items() if facts.scores else ():
        before = theirs.get(name)
        known = before is not None
        rows.append(
            (
                plain(title(name)),
                written(name, before, facts.task) if known else "",
                f"**{written(name, value, facts.task)}**",
                change(name, before, value, facts.task) if known else "",
            )
        )
    if facts.sparse:
        known = dense is not None and dense.zeros is not None
        before = percent(dense.zeros, " ") if known else ""
        share = percent(facts.zeros.share, " ")
        rows.append((f"zeros in the {layers(facts)}", before, f"**{share}**", ""))
    smaller = small.sizes is not None and small.sizes.ratio >= _SMALLER
    compared = f"{small.sizes.ratio:.1f} times smaller than float32" if smaller else ""
    rows.append(("weight file", "", f"**{size(small.bytes)}**", compared))
    return rows


def sizes(facts: Facts) -> Rows:
    """Put every form of the files beside float32, as it is and as papers count."""
    encoder = layers(facts)
    rows: Rows = [("", "dense, float32", "here", "times smaller", "as papers count")]
    for files in facts.files:
        form = "floats" if files.form == "plain" else files.form
        if (found := files.sizes) is None:
            rows.append((f"{form}, whole model", "", size(files.bytes), "", ""))
            continue
        taken = found.encoder_bytes + found.scale_bytes
        rows.append(
            (f"{form}, whole model", size(found.dense_bytes), size(files.bytes), _times(found.ratio), "")
        )
        counted = _times(found.counted_ratio)
        rows.append(
            (
                f"{form}, {encoder} alone",
                size(found.encoder_dense_bytes),
                size(taken),
                _times(found.encoder_ratio),
                counted,
            )
        )
    return rows


def latencies(latency: LatencyReport) -> Rows:
    """Put the runtimes in a column, the fastest first."""
    rows: Rows = [("", "median", "95th percentile", "texts a second", "memory of weights", "differs by")]
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


def dense_title(facts: Facts) -> str:
    """Return what the model is called that this one is compared with."""
    dense = facts.dense
    kind = "teacher" if dense.teacher else "model"
    return f"dense {kind}" if (dense.zeros or 0) < DENSE_BELOW else kind


def layers(facts: Facts) -> str:
    """Return what the weights are called that a recipe means."""
    return "decoder" if facts.task == "text-generation" else "encoder"


# By less than this no file is smaller.
_SMALLER = 1.05


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < float("inf") else ""
