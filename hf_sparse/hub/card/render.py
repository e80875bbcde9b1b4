"""The text of a card: metadata, summary, sections; the same facts give the same text."""

import hashlib
import re
from collections.abc import Callable

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_sparse.hub.card.card_data import Facts, Scores, Stage
from hf_sparse.hub.card.escape import code, hub_link, is_hub_name, one_line, plain
from hf_sparse.hub.card.sections import contents, license_terms, limits, runs
from hf_sparse.hub.card.tables import Rows, dense_title, layers, markdown, paragraphs, percent
from hf_sparse.hub.card.usage import loading, speed, times_as_fast
from hf_sparse.runs.score_text import change, compared, lower_is_better, title, written
from hf_sparse.units import size

CARD, PICTURES = "README.md", "pictures"
SECTIONS: dict[str, Callable[[Facts], str]] = {
    "How to load it": loading,
    "What is in it": contents,
    "How fast it is": speed,
    "Limits": limits,
    "How it was made": runs,
    "License": license_terms,
}
"""The sections below the summary, by heading; a section whose function returns "" is left out."""

_MARK = "<!-- Written by hf_sparse; sha256 of the text above: {} -->"
_MARKED = re.compile(rf"(.*\n){_MARK.format('([0-9a-f]{64})')}\s*", re.DOTALL)


def render(facts: Facts) -> ModelCard:
    """Return the card: metadata for the Hub, a summary, and every section that the facts give a text for.

    The last line is a comment by which `is_generated` recognizes an unchanged card.
    """
    blocks = [summary(facts)]
    for heading, section in SECTIONS.items():
        if text := section(facts):
            blocks += [f"## {heading}", text]
    # ModelCard may write metadata otherwise than they were given, so the hash is of what it wrote.
    card = str(ModelCard(f"---\n{metadata_of(facts).to_yaml()}\n---\n\n{paragraphs(*blocks)}\n\n"))
    return ModelCard(f"{card}{_MARK.format(_digest(card))}\n")


def is_generated(text: str) -> bool:
    """Return whether a README.md is a card that `render` wrote and nobody has changed since."""
    found = _MARKED.fullmatch(text)
    return found is not None and _digest(found[1]) == found[2]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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


# The Hub's type of a dataset that is not on the Hub.
_CUSTOM = "custom"
# Names with these endings are files, not datasets of the Hub.
_FILES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".txt")


def metadata_of(facts: Facts) -> ModelCardData:
    """Return the metadata at the head of the card."""
    results = _results(facts)
    trained = any(stage.step for stage in facts.stages)
    relation = "quantized" if facts.quantization and not trained else "finetune"
    return ModelCardData(
        language=_one_or_all(facts.language),
        license=_line(facts.license),
        library_name="transformers",
        pipeline_tag=_line(facts.task),
        base_model=_line(facts.base_model),
        base_model_relation=relation if facts.base_model else None,
        datasets=sorted({name for stage in facts.stages for name in _datasets(stage)}) or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        tags=_tags(facts),
        eval_results=results or None,
        model_name=one_line(facts.name) if results else None,
    )


def on_the_hub(dataset: str | None) -> bool:
    """Return whether a dataset has a name of the Hub, owner/name; files and descriptions do not."""
    if dataset is None or dataset.endswith(_FILES):
        return False
    return "/" in dataset and is_hub_name(dataset)


def _results(facts: Facts) -> list[EvalResult]:
    if facts.scores is None or facts.dataset is None or facts.task is None:
        return []
    return [
        EvalResult(
            task_type=one_line(facts.task),
            dataset_type=facts.dataset if on_the_hub(facts.dataset) else _CUSTOM,
            dataset_name=one_line(facts.dataset),
            dataset_config=_line(facts.config),
            dataset_split=_line(facts.split),
            metric_type=one_line(name),
            metric_value=value,
            metric_name=one_line(title(name)),
        )
        for name, value in facts.scores.values.items()
    ]


def _datasets(stage: Stage) -> list[str]:
    found = stage.facts.get("dataset")
    names = found if isinstance(found, list) else [found]
    return [name for name in names if isinstance(name, str) and on_the_hub(name)]


def _tags(facts: Facts) -> list[str]:
    tags = ["hf_sparse"]
    if facts.sparse:
        # The Hub reads what comes before a colon as a namespace.
        pattern = one_line(facts.zeros.pattern or "").replace(":", "of")
        tags += ["sparse", *([pattern] if pattern else [])]
    methods = {(stage.recipe.get("sparsity") or {}).get("method", "lock") for stage in facts.stages}
    if facts.sparse and methods - {"lock"}:
        tags.append("pruned")
    if facts.quantization is not None:
        tags.append(f"int{facts.quantization.bits}")
    if any(stage.recipe.get("distillation") for stage in facts.stages):
        tags.append("distilled")
    return tags


def _one_or_all(languages: tuple[str, ...]) -> str | list[str] | None:
    lines = [one_line(language) for language in languages]
    return lines[0] if len(lines) == 1 else lines or None


def _line(text: str | None) -> str | None:
    return None if text is None else one_line(text)
