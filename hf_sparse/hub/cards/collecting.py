"""The facts of a card, read from the files of a run and measured of the model that is published."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

from hf_sparse.checkpoint.run_record import fact_text, is_local, public_name, public_record
from hf_sparse.hub.cards.comparing import dense_of, scores_of
from hf_sparse.hub.cards.facts import Facts, Stage, summarized
from hf_sparse.hub.cards.weights import files_of, quantization_of, zeros_of
from hf_sparse.runs.run import Run, origin_of, pipeline_of

logger = logging.getLogger(__name__)

_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
# Classes without a head that are given a text and nothing else.
_ENCODERS = frozenset(MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.values())
# More names than these are no help in a card.
_MOST_LABELS = 40
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
_TOKENIZER = "tokenizer_config.json"
# The branch that is loaded where none is named.
_DEFAULT = "main"


def collect(
    run: Run,
    model: PreTrainedModel,
    staged: Path,
    repo: str,
    *,
    loaded: bool = True,
    revision: str | None = None,
    dense: str | Path | None = None,
    base_model: str | None = None,
    licence: str | None = None,
    language: str | Sequence[str] | None = None,
) -> Facts:
    """Return what is known of a run's model that lies in `staged` to publish.

    Scores and latencies in `run` are of this model. It was `loaded` by `load_to_measure`, or else is the very
    one that was trained. Raises `ValueError` for files that are damaged, and as `dense_of` does.
    """
    said, architecture = _said(run), architecture_of(model, loaded)
    files = files_of(model if loaded else None, run.directory, staged)
    sizes = files[0].sizes
    spoken = said.get("language") if language is None else language
    return Facts(
        repo=repo,
        revision=None if revision == _DEFAULT else revision,
        architecture=architecture,
        stock=hasattr(transformers, architecture),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        task=_text(said.get("task")) or _task(architecture),
        dataset=_text(said.get("dataset")),
        config=_text(said.get("config")),
        split=_text(said.get("split")),
        base_model=_public_base(base_model) or _base_model(run),
        licence=licence,
        language=tuple(map(str, spoken)) if isinstance(spoken, list | tuple) else (spoken,) if spoken else (),
        tokenizer=(staged / _TOKENIZER).is_file(),
        labels=_labels(model) if architecture.endswith(_CLASSIFIERS) else (),
        zeros=zeros_of(model, run, sizes),
        quantization=quantization_of(model, run.directory),
        scores=scores_of(run),
        dense=dense_of(run, dense),
        files=files,
        latencies=tuple(map(summarized, run.latency_reports())),
        stages=tuple(_stage(stage) for stage in _all_runs(run) if stage.record is not None),
        pictures=(),
    )


def architecture_of(model: PreTrainedModel, loaded: bool = True) -> str:
    """Return the class that a model was saved as; of one that was not loaded that is its own."""
    # What a model started from, whose class its configuration still names, may have been another.
    named = model.config.architectures if loaded else None
    return (named or [type(model).__name__])[0]


def _said(run: Run) -> dict[str, Any]:
    """Return the facts that the record of a run holds, without paths."""
    return dict(public_record(run.record)["facts"]) if run.record else {}


def _text(fact: Any) -> str | None:
    return None if fact is None else fact_text(fact)


def _task(architecture: str) -> str | None:
    """Return what the Hub calls the task of a class, None if nobody can know."""
    found = next((task for ending, task in _TASKS.items() if architecture.endswith(ending)), None)
    return found or ("feature-extraction" if architecture in _ENCODERS else None)


def _public_base(base_model: str | None) -> str | None:
    """Return the name of a base model on the Hub, None for a directory, whose name says nothing to others."""
    # Unlike the method of Path this takes any text, however long.
    if base_model is not None and (is_local(base_model) or os.path.exists(base_model)):
        logger.warning("The card does not name %s as the base model: it is no name on the Hub", base_model)
        return None
    return base_model


def _labels(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the classes of a classifier in their order, none where nobody named them."""
    names = tuple(model.config.id2label[number] for number in sorted(model.config.id2label))
    named = any(name != f"LABEL_{number}" for number, name in enumerate(names))
    return names if named and len(names) <= _MOST_LABELS else ()


def _base_model(run: Run) -> str | None:
    """Return the last model on the Hub that this one comes from, None if there is none."""
    for stage in reversed(pipeline_of(run)):
        named = stage.record and stage.record.get("base_model")
        if named and not is_local(named):
            return named
    return None


def _all_runs(run: Run, seen: set[Path] | None = None) -> list[Run]:
    """Return a run after those that it needed, models to start from and teachers, as far as they lie here."""
    seen = set() if seen is None else seen
    seen.add(run.directory.resolve())
    before = []
    for role in ("base_model", "teacher"):
        origin = origin_of(run, role)
        if origin is not None and origin.directory.resolve() not in seen:
            before += _all_runs(origin, seen)
    return [*before, run]


def _stage(run: Run) -> Stage:
    record = public_record(run.record)
    return Stage(
        name=run.name,
        architecture=record["architecture"],
        base_model=_last_part(record.get("base_model")),
        teacher=_last_part(record.get("teacher")),
        recipe=record["recipe"],
        arguments=record["arguments"],
        step=record["step"],
        epochs=record["epochs"],
        train_samples=record["train_samples"],
        seconds=record["seconds"],
        facts=_said(run),
        hardware=record["hardware"],
        versions=record["versions"],
    )


def _last_part(model: str | None) -> str | None:
    return None if model is None else public_name(model)
