"""The head of a card: the model in one paragraph, beside the dense model in a table."""

from hf_sparse.hub.card.card_data import Facts, Scores
from hf_sparse.hub.card.escape import code, hub_link, plain
from hf_sparse.hub.card.metadata import on_the_hub
from hf_sparse.hub.card.speed import times_as_fast
from hf_sparse.hub.card.tables import Rows, dense_title, layers, markdown, paragraphs, percent
from hf_sparse.runs.score_text import change, compared, lower_is_better, title, written
from hf_sparse.units import size

_KINDS = {
    "text-classification": "text classifier",
    "token-classification": "token classifier",
    "question-answering": "question-answering model",
    "fill-mask": "masked language model",
    "text-generation": "language model",
}
# A file that is smaller by less than this is not called smaller.
_SMALLER = 1.05


def summary(facts: Facts) -> str:
    """Return the name of the model, what was done to it, and what was measured of it."""
    return paragraphs(
        f"# {plain(facts.name)}",
        _description(facts),
        markdown(_table(facts)),
        _source(facts, facts.scores) if facts.scores else "",
        _labels(facts) if facts.labels else "",
    )


def _description(facts: Facts) -> str:
    kind = _KINDS.get(facts.task or "", "model")
    size_of = f", {facts.parameters / 1e6:,.2f} million parameters"
    made = [part for part in (_removed(facts), _rounded(facts)) if part]
    first = f"A {kind} ({code(facts.architecture)}{size_of}){' with ' + ' and '.join(made) if made else ''}."
    return " ".join([first, *_measured(facts)])


def _removed(facts: Facts) -> str | None:
    if not facts.sparse:
        return None
    return f"**{percent(facts.zeros.share)} of its {layers(facts)}'s weights removed**"


def _rounded(facts: Facts) -> str | None:
    if facts.quantization is None:
        return None
    what = "the others" if facts.sparse else f"its {layers(facts)}'s weights"
    return f"{what} in **{facts.quantization.bits} bits**"


def _measured(facts: Facts) -> list[str]:
    found = []
    if facts.scores is not None:
        name, value = next(iter(facts.scores.values.items()))
        score = f"{plain(title(name))} is **{written(name, value, facts.task, 1)}**"
        before = facts.dense and facts.dense.scores.values.get(name)
        beside = f", {compared(name, before, value, facts.task)} its {dense_title(facts)}" if before else ""
        found.append(f"Its {score}{beside}.")
    ratio = _ratio(facts)
    if ratio is not None:
        form = f" ({facts.small.form})" if len(facts.files) > 1 else ""
        found.append(f"Its weight file{form} is **{ratio:.1f} times smaller** than in float32.")
    if facts.latencies and (speed := times_as_fast(facts.latencies[0])):
        found.append(speed)
    return found


def _ratio(facts: Facts) -> float | None:
    """Return how many times smaller the smallest file is than in float32, None if it is not smaller."""
    sizes = facts.small.sizes
    return sizes.ratio if sizes is not None and sizes.ratio >= _SMALLER else None


def _table(facts: Facts) -> Rows:
    """Return scores, zeros and file size, beside those of the dense model."""
    dense = facts.dense
    heads = (dense_title(facts), "this model", "difference") if dense else ("", "this model", "")
    rows: Rows = [("", *heads)]
    dense_scores = dense.scores.values if dense else {}
    for name, value in facts.scores.values.items() if facts.scores else ():
        before = dense_scores.get(name)
        rows.append(
            (
                plain(title(name)),
                "" if before is None else written(name, before, facts.task),
                f"**{written(name, value, facts.task)}**",
                "" if before is None else change(name, before, value, facts.task),
            )
        )
    if facts.sparse:
        zeros = "" if dense is None or dense.zeros is None else percent(dense.zeros)
        rows.append((f"zeros in the {layers(facts)}", zeros, f"**{percent(facts.zeros.share)}**", ""))
    ratio = _ratio(facts)
    smaller = "" if ratio is None else f"{ratio:.1f} times smaller than float32"
    rows.append(("weight file", "", f"**{size(facts.small.bytes)}**", smaller))
    return rows


def _source(facts: Facts, scores: Scores) -> str:
    """Return the examples that the scores were measured on, and the files that hold them."""
    where = [f"{code(scores.file)} of the run"]
    if facts.dense is not None:
        where.append(f"{code(facts.dense.scores.file)} of {code(facts.dense.name)}")
    count = f"{scores.samples:,} examples" if scores.samples is not None else ""
    joined = " of ".join(part for part in (count, _data(facts)) if part)
    on = f"on {joined}, " if joined else ""
    lower = [plain(title(name)) for name in scores.values if lower_is_better(name)]
    better = f" Lower is better for {', '.join(lower)}." if lower else ""
    return f"Scores are {on}from {' and '.join(where)}.{better}"


def _data(facts: Facts) -> str:
    if facts.dataset is None:
        return ""
    name = hub_link(facts.dataset, "datasets/") if on_the_hub(facts.dataset) else plain(facts.dataset)
    more = [plain(part) for part in (facts.config, facts.split) if part]
    return f"{name} ({', '.join(more)})" if more else name


def _labels(facts: Facts) -> str:
    return f"Its {len(facts.labels)} classes are {', '.join(map(plain, facts.labels))}."
