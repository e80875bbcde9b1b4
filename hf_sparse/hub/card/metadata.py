"""The metadata of a card, by which the Hub filters, lists and ranks models."""

from huggingface_hub import EvalResult, ModelCardData

from hf_sparse.hub.card.card_data import Facts, Stage
from hf_sparse.hub.card.escape import is_hub_name, one_line
from hf_sparse.runs.score_text import title

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
