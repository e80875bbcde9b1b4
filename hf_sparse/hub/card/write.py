"""Write the card of a model, made of what was measured of it."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

from hf_sparse.atomic.files import write_atomically
from hf_sparse.checkpoint.load import require_known_class
from hf_sparse.checkpoint.run_record import fact_text, is_local, public_name, public_record
from hf_sparse.hub.card.card_data import Facts, Stage, summarized
from hf_sparse.hub.card.measurements import dense_of, only_current, scores_of
from hf_sparse.hub.card.options import CardOptions, card_keywords
from hf_sparse.hub.card.render import CARD, PICTURES, render
from hf_sparse.hub.card.weights import files_of, load_to_measure, quantization_of, targets_of, zeros_of
from hf_sparse.renamed import renamed_keywords
from hf_sparse.report.grid import arrange
from hf_sparse.report.heatmap import sparsity_figure
from hf_sparse.report.history import history_figure
from hf_sparse.report.latency import latency_figure
from hf_sparse.report.pictures import write_png
from hf_sparse.runs.run import SavedRun, origin_of, pipeline_of, read_run
from hf_sparse.sparsity.inspection import WeightInspection, inspect_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
# Classes without a head that need nothing but a text.
_ENCODERS = frozenset(MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.values())
# A longer list of labels does not help the reader of a card.
_MOST_LABELS = 40
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
_TOKENIZER = "tokenizer_config.json"
# The branch that is loaded when no revision is given.
_DEFAULT = "main"
DRAWN = ("sparsity.png", "training.png", "latency.png")


@renamed_keywords(repo="repo_id")
@card_keywords
def write_card(
    directory: str | Path,
    staged: str | Path,
    repo_id: str,
    *,
    model: PreTrainedModel | None = None,
    revision: str | None = None,
    card: CardOptions | None = None,
) -> Path:
    """Write README.md and its pictures into a directory; replace an earlier README.md.

    Args:
        directory: Output directory of the run, with the files that hold what was measured.
        staged: Directory with the model files to push, perhaps with the packed file in `packed/`. May be
            `directory` itself.
        repo_id: Name on the Hub, `owner/name` or `name`.
        model: The trained model, if transformers does not have its class. Any other is loaded.
        revision: Branch or tag that the model is pushed to.
        card: License, language and whatever else is not measured.

    Returns:
        The path of README.md.

    Raises:
        ValueError: If results are of another model or cannot be compared with those of the dense one, if a
            file is damaged, or if `directory` lacks a model.
    """
    facts = describe(directory, staged, repo_id, model=model, revision=revision, card=card)
    path = Path(staged) / CARD
    write_atomically(path, str(render(facts)).encode())
    return path


def describe(
    directory: str | Path,
    staged: str | Path,
    repo_id: str,
    *,
    model: PreTrainedModel | None = None,
    revision: str | None = None,
    card: CardOptions | None = None,
) -> Facts:
    """Return all facts that the card is made of and draw its pictures; arguments as in `write_card`."""
    run, folder, loaded, options = read_run(directory), Path(staged), model is None, card or CardOptions()
    if model is None:
        require_known_class(str(directory))
        model = load_to_measure(directory)
    architecture = architecture_of(model, loaded)
    run = only_current(run, model, architecture, options.outdated)
    said = _said(run)
    files = files_of(model if loaded else None, run.directory, folder)
    facts = Facts(
        repo_id=repo_id,
        revision=None if revision == _DEFAULT else revision,
        architecture=architecture,
        stock=hasattr(transformers, architecture),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        task=_text(said.get("task")) or _task(architecture),
        dataset=_text(said.get("dataset")),
        config=_text(said.get("config")),
        split=_text(said.get("split")),
        base_model=_public_base(options.base_model) or _base_model(run),
        license=options.license,
        language=_languages(said.get("language") if options.language is None else options.language),
        tokenizer=(folder / _TOKENIZER).is_file(),
        labels=_labels(model) if architecture.endswith(_CLASSIFIERS) else (),
        zeros=zeros_of(model, run, files[0].sizes),
        quantization=quantization_of(model, run.directory),
        scores=scores_of(run),
        dense=dense_of(run, options.dense),
        files=files,
        latencies=tuple(map(summarized, run.latency_reports())),
        stages=tuple(_stage(stage) for stage in _all_runs(run) if stage.record is not None),
        pictures=(),
    )
    weights = inspect_weights(targets_of(run, model))
    return replace(facts, pictures=draw_pictures(folder / PICTURES, run, weights, facts.name))


def architecture_of(model: PreTrainedModel, loaded: bool = True) -> str:
    """Return the class that a model was saved as; for a model that was not loaded, its own class."""
    # The configuration of a trained model may still name the class of the model it started from.
    named = model.config.architectures if loaded else None
    return (named or [type(model).__name__])[0]


def _said(run: SavedRun) -> dict[str, Any]:
    """Return the facts in the record of a run, without paths."""
    return dict(public_record(run.record)["facts"]) if run.record else {}


def _text(fact: Any) -> str | None:
    return None if fact is None else fact_text(fact)


def _languages(given: Any) -> tuple[str, ...]:
    if isinstance(given, list | tuple):
        return tuple(map(str, given))
    return (given,) if given else ()


def _task(architecture: str) -> str | None:
    """Return the Hub's name of the task of a class, None for a class without an obvious one."""
    found = next((task for ending, task in _TASKS.items() if architecture.endswith(ending)), None)
    return found or ("feature-extraction" if architecture in _ENCODERS else None)


def _public_base(base_model: str | None) -> str | None:
    """Return the name of a base model on the Hub, None for a directory, whose name is of no use to others."""
    # Unlike Path.exists this accepts a text of any length.
    if base_model is not None and (is_local(base_model) or os.path.exists(base_model)):
        logger.warning("The card does not name %s as the base model: it is not a name on the Hub", base_model)
        return None
    return base_model


def _labels(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the classes of a classifier in their order, nothing if they are unnamed."""
    labels: Mapping[Any, str] = model.config.id2label or {}
    names = tuple(labels[number] for number in sorted(labels))
    named = any(name != f"LABEL_{number}" for number, name in enumerate(names))
    return names if named and len(names) <= _MOST_LABELS else ()


def _base_model(run: SavedRun) -> str | None:
    """Return the last model on the Hub that this one comes from, None if there is none."""
    for stage in reversed(pipeline_of(run)):
        named = stage.record and stage.record.get("base_model")
        if named and not is_local(named):
            return str(named)
    return None


def _all_runs(run: SavedRun, seen: set[Path] | None = None) -> list[SavedRun]:
    """Return a run after the runs of its base model and its teacher, as far as they are on this machine."""
    seen = set() if seen is None else seen
    seen.add(run.directory.resolve())
    before = []
    for role in ("base_model", "teacher"):
        origin = origin_of(run, role)
        if origin is not None and origin.directory.resolve() not in seen:
            before += _all_runs(origin, seen)
    return [*before, run]


def _stage(run: SavedRun) -> Stage:
    record = public_record(run.record or {})
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


def draw_pictures(
    folder: Path, run: SavedRun, weights: tuple[WeightInspection, ...], name: str
) -> tuple[str, ...]:
    """Draw the pictures that there is data for into a folder; return their file names.

    Earlier pictures of these names are deleted. Without matplotlib none is drawn, with a warning.
    """
    for picture in DRAWN:
        (folder / picture).unlink(missing_ok=True)
    if find_spec("matplotlib") is None:
        logger.warning("The card lacks pictures: matplotlib is not installed; pip install hf_sparse[demo]")
        return ()
    drawn = dict(_figures(run, weights, name))
    for picture, draw in drawn.items():
        write_png(draw(), folder / picture)
    return tuple(drawn)


def _figures(
    run: SavedRun, weights: tuple[WeightInspection, ...], name: str
) -> Iterator[tuple[str, Callable[[], "Figure"]]]:
    if any(weight.zeros for weight in weights) and arrange(weights)[0]:
        yield DRAWN[0], lambda: sparsity_figure(weights, f"{name}: zeros (%)")
    if any("loss" in line for line in run.log):
        yield DRAWN[1], lambda: history_figure(run.log, f"{name}: its last run")
    if run.latencies:
        yield DRAWN[2], lambda: latency_figure(replace(run.latency_reports()[0], model=name))
