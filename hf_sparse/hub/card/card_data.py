"""The facts that a card is made of, read or measured, with a lossless form in JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Annotated, Any

from pydantic import AliasChoices, Field, PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from hf_sparse.checkpoint.sizes import Sizes
from hf_sparse.runs.latency import LatencyReport
from hf_sparse.units import DENSE_BELOW


@dataclass(frozen=True)
class Zeros:
    """Zeros among the target weights; shares are in [0, 1].

    `rounded` is the share of zeros after rounding to the bits of the weights, `pattern` the recorded pattern
    or else the one found, `asked` and `achieved` the sparsity that the configuration records.
    """

    weights: int
    matrices: int
    zeros: int
    rounded: float | None
    pattern: str | None
    asked: float | None
    achieved: float | None

    @property
    def share(self) -> float:
        return self.zeros / self.weights


@dataclass(frozen=True)
class Quantization:
    """The schemes by which weights, inputs and embeddings of layers are rounded."""

    weights: str
    activations: str
    embeddings: str | None
    bits: int


@dataclass(frozen=True)
class Scores:
    """Scores by the names of their metrics, the file that holds them, and the number of examples."""

    values: Mapping[str, float]
    file: str
    samples: int | None


@dataclass(frozen=True)
class Dense:
    """The model that this one is compared with; `teacher` is True if it taught this one.

    `zeros` is the share of its weights that are zero, None if unknown.
    """

    name: str
    teacher: bool
    scores: Scores
    zeros: float | None

    @property
    def is_dense(self) -> bool:
        """Whether fewer than 1 % of its weights are zero; True if their share is unknown."""
        return (self.zeros or 0) < DENSE_BELOW


@dataclass(frozen=True)
class Files:
    """Weight files in a folder of the repository; an empty `folder` is its root.

    `form` is `plain`, `compressed-tensors` or `packed`. `sizes` is None if only the files were measured.
    """

    form: str
    folder: str
    bytes: int
    sizes: Sizes | None


def summarized(report: LatencyReport) -> LatencyReport:
    """Return a report as cards keep it: without its single calls and the name of the model."""
    rows = tuple(replace(row, ms=()) for row in report.ranked)
    machine = {name: report.machine[name] for name in _MACHINE}
    return replace(report, model="", architecture="", machine=machine, largest=inf, rows=rows)


def _latency_to_json(report: LatencyReport) -> dict[str, Any]:
    found = report.to_dict()
    kept = {"file": report.file} | {name: found[name] for name in ("batch", "length", "threads")}
    kept |= dict(report.machine) | {"reference": report.reference}
    rows = [{name: value for name, value in row.items() if name in _ROW} for row in found["rows"]]
    return kept | {"rows": rows} | {name: found[name] for name in ("missing", "gain", "verdict")}


def _latency_from_json(found: Any) -> LatencyReport:
    if not isinstance(found, dict):
        raise ValueError("a latency is an object")
    machine = {name: found[name] for name in _MACHINE if name in found}
    return LatencyReport.from_dict(found | {"machine": machine}, str(found.get("file", "")))


_MACHINE = ("processor", "cores", "kernels", "versions")
_ROW = (
    "name",
    "ours",
    "median_ms",
    "p95_ms",
    "sequences_per_second",
    "weight_bytes",
    "largest_difference",
    "note",
)
Latency = Annotated[LatencyReport, PlainValidator(_latency_from_json), PlainSerializer(_latency_to_json)]


@dataclass(frozen=True)
class Stage:
    """One of the runs that led to the model, from its record, without paths.

    `base_model` and `teacher` are names of other stages, of directories, or of models on the Hub.
    """

    name: str
    architecture: str
    base_model: str | None
    teacher: str | None
    recipe: Mapping[str, Any]
    arguments: Mapping[str, Any]
    step: int
    epochs: float | None
    train_samples: int | None
    seconds: float | None
    facts: Mapping[str, Any]
    hardware: Mapping[str, Any]
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that a card is made of; the card leaves out facts that are None or empty.

    `repo_id` is the name of the repository, `revision` a branch or tag other than the default, `stock`
    whether transformers has the class `architecture`, `labels` the named classes of a classifier, `stages`
    the runs in order with that of this model last, `pictures` the file names of the pictures beside the card.
    A fact that earlier versions did not write has a default, so that their files can be read.
    """

    repo_id: Annotated[str, Field(validation_alias=AliasChoices("repo_id", "repo"))]
    revision: str | None = None
    architecture: str
    stock: bool
    parameters: int
    task: str | None = None
    dataset: str | None = None
    config: str | None = None
    split: str | None = None
    base_model: str | None = None
    license: Annotated[str | None, Field(validation_alias=AliasChoices("license", "licence"))] = None
    language: tuple[str, ...] = ()
    tokenizer: bool = False
    labels: tuple[str, ...] = ()
    zeros: Zeros
    quantization: Quantization | None = None
    scores: Scores | None = None
    dense: Dense | None = None
    files: tuple[Files, ...]
    latencies: tuple[Latency, ...] = ()
    stages: tuple[Stage, ...] = ()
    pictures: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.repo_id.rpartition("/")[2]

    @property
    def small(self) -> Files:
        """The smallest of the files."""
        return min(self.files, key=lambda files: files.bytes)

    @property
    def sparse(self) -> bool:
        """Whether weights were removed, judged by their share of zeros, since any model has a few."""
        return self.zeros.share >= DENSE_BELOW

    @property
    def small_by_design(self) -> bool:
        """Whether weights were removed, rounded or packed, any of which makes files small."""
        return self.sparse or self.quantization is not None or len(self.files) > 1

    def to_json(self) -> str:
        """Return the facts as JSON, for `facts_from_json`."""
        return json.dumps(_FACTS.dump_python(self, mode="json"), indent=1, allow_nan=False) + "\n"


_FACTS = TypeAdapter(Facts)


def facts_from_json(text: str) -> Facts:
    """Return the facts that `Facts.to_json` wrote; raise `ValueError` for anything else."""
    try:
        return _FACTS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        why = f"{'.'.join(map(str, first['loc']))[:120]}: {first['msg']}"
        raise ValueError(f"these are not the facts of a card ({why}); write the card again") from error
