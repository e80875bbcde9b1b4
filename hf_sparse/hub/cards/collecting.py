"""The facts of a card, read from the files of a run and measured of the model that is published."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_sparse.hub.cards.comparing import dense_of, require_fresh, scores_of
from hf_sparse.hub.cards.facts import Facts, Latency, LatencyFact, Stage
from hf_sparse.hub.cards.weights import files_of, quantization_of, zeros_of
from hf_sparse.report.run import LATENCY, Run, origin_of, pipeline_of
from hf_sparse.training.record import is_local, public_name, public_record

_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
# More names than these are no help in a card.
_MOST_LABELS = 40
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
_TOKENIZER = "tokenizer_config.json"


def collect(
    run: Run,
    model: PreTrainedModel,
    staged: Path,
    repo: str,
    *,
    dense: str | Path | None = None,
    base_model: str | None = None,
    licence: str | None = None,
    language: str | Sequence[str] | None = None,
) -> Facts:
    """Return what is known of a run's model, loaded by `load_to_measure`, that lies in `staged` to publish.

    Raises `ValueError` for results that are not of this model, and as `dense_of` does.
    """
    require_fresh(run, model)
    said = {name: _public(value) for name, value in ((run.record or {}).get("facts") or {}).items()}
    architecture = (model.config.architectures or [type(model).__name__])[0]
    files = files_of(model, run.directory, staged)
    sizes = files[0].sizes
    spoken = said.get("language", ()) if language is None else language
    return Facts(
        repo=repo,
        architecture=architecture,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        task=said.get("task") or _task(architecture),
        dataset=said.get("dataset"),
        config=said.get("config"),
        split=said.get("split"),
        base_model=base_model or _base_model(run),
        licence=licence,
        language=(spoken,) if isinstance(spoken, str) else tuple(spoken),
        tokenizer=(staged / _TOKENIZER).is_file(),
        labels=_labels(model) if architecture.endswith(_CLASSIFIERS) else (),
        zeros=zeros_of(model, run, sizes),
        quantization=quantization_of(model, run.directory),
        scores=scores_of(run),
        dense=dense_of(run, dense),
        files=files,
        latencies=tuple(_latencies(run, architecture)),
        stages=tuple(_stage(stage) for stage in _all_runs(run) if stage.record is not None),
        pictures=(),
    )


def _public(value: str) -> str:
    """Return a fact without the path, if it is one of this machine."""
    # Unlike the method of Path this takes any text, however long.
    return Path(value).name if os.path.exists(value) else public_name(value)


def _task(architecture: str) -> str | None:
    return next((task for ending, task in _TASKS.items() if architecture.endswith(ending)), None)


def _labels(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the classes of a classifier in their order, none where nobody named them."""
    names = tuple(model.config.id2label[number] for number in sorted(model.config.id2label))
    named = any(name != f"LABEL_{number}" for number, name in enumerate(names))
    return names if named and len(names) <= _MOST_LABELS else ()


def _base_model(run: Run) -> str | None:
    """Return the last model on the Hub that this one comes from, None if there is none.

    What is called as a directory beside the run is that directory.
    """
    for stage in reversed(pipeline_of(run)):
        named = stage.record and stage.record.get("base_model")
        if named and not is_local(named) and not (stage.directory.resolve().parent / named).exists():
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
        base_model=record["base_model"],
        teacher=record["teacher"],
        recipe=record["recipe"],
        arguments=record["arguments"],
        step=record["step"],
        epochs=record["epochs"],
        train_samples=record["train_samples"],
        seconds=record["seconds"],
        facts={name: _public(value) for name, value in record["facts"].items()},
        hardware=record["hardware"],
        versions=record["versions"],
    )


def _latencies(run: Run, architecture: str) -> list[Latency]:
    paths = sorted(run.directory.glob(LATENCY))
    return [_latency(path, found, architecture) for path, found in zip(paths, run.latencies, strict=True)]


def _latency(path: Path, found: Mapping[str, Any], architecture: str) -> Latency:
    try:
        if found["architecture"] != architecture:
            raise ValueError(
                f"{path} is of a {found['architecture']} and the model is a {architecture}; measure again, "
                "or delete it"
            )
        machine = found["machine"]
        rows = [{name: row[name] for name in LatencyFact.__annotations__} for row in found["rows"]]
        return Latency(
            file=path.name,
            **{name: found[name] for name in ("batch", "length", "threads", "reference")},
            **{name: machine[name] for name in ("processor", "cores", "kernels", "versions")},
            rows=tuple(LatencyFact(**row) for row in rows),
            **{name: found[name] for name in ("missing", "gain", "verdict")},
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not what hf-sparse benchmark --json prints ({type(error).__name__} {error}); "
            "measure again, or delete it"
        ) from error
