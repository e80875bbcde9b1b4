"""The facts of a card that programs read: what the Hub filters, lists and ranks models by."""

from huggingface_hub import EvalResult, ModelCardData

from hf_sparse.hub.cards.facts import Facts, Stage
from hf_sparse.report.scores import title

# What the Hub has as the type of a data set that is none of its own.
_CUSTOM = "custom"
# Endings of files of data, of which no data set of the Hub has the name.
_FILES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".txt")


def metadata_of(facts: Facts) -> ModelCardData:
    """Return what stands at the head of the card."""
    results = _results(facts)
    trained = any(stage.step for stage in facts.stages)
    relation = "quantized" if facts.quantization and not trained else "finetune"
    return ModelCardData(
        language=_one_or_all(facts.language),
        license=facts.licence,
        library_name="transformers",
        pipeline_tag=facts.task,
        base_model=facts.base_model,
        base_model_relation=relation if facts.base_model else None,
        datasets=sorted({name for stage in facts.stages for name in _datasets(stage)}) or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        tags=_tags(facts),
        eval_results=results or None,
        model_name=facts.name if results else None,
    )


def on_the_hub(dataset: str | None) -> bool:
    """Say whether a data set is named as on the Hub, owner/name; files and descriptions are not."""
    if dataset is None or dataset.endswith(_FILES):
        return False
    return dataset.count("/") == 1 and " " not in dataset


def _results(facts: Facts) -> list[EvalResult]:
    if facts.scores is None or facts.dataset is None or facts.task is None:
        return []
    return [
        EvalResult(
            task_type=facts.task,
            dataset_type=facts.dataset if on_the_hub(facts.dataset) else _CUSTOM,
            dataset_name=facts.dataset,
            dataset_config=facts.config,
            dataset_split=facts.split,
            metric_type=name,
            metric_value=value,
            metric_name=title(name),
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
        # A colon would make a namespace of what stands before it.
        pattern = (facts.zeros.pattern or "").replace(":", "of")
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
    return languages[0] if len(languages) == 1 else list(languages) or None
