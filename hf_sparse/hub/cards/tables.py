"""The tables of a card as rows of text, the head first."""

from collections.abc import Sequence

from hf_sparse.hub.cards.escaping import plain
from hf_sparse.hub.cards.facts import Facts, Latency
from hf_sparse.report.scores import change, title, written
from hf_sparse.report.tables import size

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
        before = f"{dense.zeros:.1%}".replace("%", " %") if known else ""
        share = f"{facts.zeros.share:.1%}".replace("%", " %")
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


def latencies(latency: Latency) -> Rows:
    """Put the runtimes in a column, the fastest first."""
    rows: Rows = [("", "median", "95th percentile", "texts a second", "memory of weights", "differs by")]
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


def dense_title(facts: Facts) -> str:
    """Return what the model is called that this one is compared with."""
    dense = facts.dense
    kind = "teacher" if dense.teacher else "model"
    return f"dense {kind}" if (dense.zeros or 0) < _DENSE else kind


def layers(facts: Facts) -> str:
    """Return what the weights are called that a recipe means."""
    return "decoder" if facts.task == "text-generation" else "encoder"


# With more zeros than this no model is dense; by less than this no file is smaller.
_DENSE, _SMALLER = 0.01, 1.05


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < float("inf") else ""


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.1f}" if number >= 100 else f"{number:.2f}"
