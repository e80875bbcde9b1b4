"""What a card says, as values that were read or measured, each of which goes through JSON unchanged."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from hf_sparse.checkpoint.sizes import Sizes


@dataclass(frozen=True)
class Zeros:
    """Zeros among the target weights; every share is one in [0, 1].

    `rounded` is the share once weights are rounded to their bits, `pattern` the one that was recorded or else
    found, `asked` and `achieved` what the configuration records.
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
    """How layers are rounded: weights, their inputs, embeddings if they are."""

    weights: str
    activations: str
    embeddings: str | None
    bits: int


@dataclass(frozen=True)
class Scores:
    """Scores by the names of their metrics, the file they come from, on how many examples they were made."""

    values: Mapping[str, float]
    file: str
    samples: int | None


@dataclass(frozen=True)
class Dense:
    """The model that this one is compared with, its `teacher` or not; `zeros` is a share, None if unknown."""

    name: str
    teacher: bool
    scores: Scores
    zeros: float | None

    @property
    def is_dense(self) -> bool:
        """Whether so few weights are zero that pruning did not make them, or nobody knows how many are."""
        return (self.zeros or 0) < _SPARSE


@dataclass(frozen=True)
class Files:
    """Weight files in the repository, in a folder of it or, with none, at its root.

    `form` is `plain`, `compressed-tensors` or `packed`. `sizes` are None where only the files were measured.
    """

    form: str
    folder: str
    bytes: int
    sizes: Sizes | None


@dataclass(frozen=True)
class LatencyFact:
    """One way to compute the model; times in milliseconds."""

    name: str
    ours: bool
    median_ms: float
    p95_ms: float
    sequences_per_second: float
    weight_bytes: int
    largest_difference: float | None
    note: str


@dataclass(frozen=True)
class Latency:
    """What one file of `hf-sparse benchmark --json` holds."""

    file: str
    batch: int
    length: int
    threads: int
    processor: str
    cores: int
    kernels: str | None
    versions: Mapping[str, str]
    reference: str
    rows: tuple[LatencyFact, ...]
    missing: Mapping[str, str]
    gain: bool
    verdict: str

    @property
    def best(self) -> LatencyFact | None:
        """The fastest row of this package's runtime."""
        return min((row for row in self.rows if row.ours), key=lambda row: row.median_ms, default=None)

    @property
    def rival(self) -> LatencyFact | None:
        """The fastest of the others."""
        return min((row for row in self.rows if not row.ours), key=lambda row: row.median_ms, default=None)


@dataclass(frozen=True)
class Stage:
    """One run of those that led to the model, as its record has it, without paths.

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


@dataclass(frozen=True)
class Facts:
    """All that a card is made of. None, or empty, is what is not known; the card is silent about it.

    `repo_id` is the repository's name, `revision` the branch or tag in it that is no default, `stock` whether
    transformers has the class `architecture`, `labels` the classes of a classifier where they have names,
    `stages` the runs in their order with this model's own as the last, `pictures` the names of those beside
    the card.
    """

    repo_id: Annotated[str, Field(validation_alias=AliasChoices("repo_id", "repo"))]
    revision: str | None
    architecture: str
    stock: bool
    parameters: int
    task: str | None
    dataset: str | None
    config: str | None
    split: str | None
    base_model: str | None
    license: Annotated[str | None, Field(validation_alias=AliasChoices("license", "licence"))]
    language: tuple[str, ...]
    tokenizer: bool
    labels: tuple[str, ...]
    zeros: Zeros
    quantization: Quantization | None
    scores: Scores | None
    dense: Dense | None
    files: tuple[Files, ...]
    latencies: tuple[Latency, ...]
    stages: tuple[Stage, ...]
    pictures: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.repo_id.rpartition("/")[2]

    @property
    def small(self) -> Files:
        """The smallest of the files."""
        return min(self.files, key=lambda files: files.bytes)

    @property
    def sparse(self) -> bool:
        """Whether weights were removed: more than the zeros that any model has."""
        return self.zeros.share >= _SPARSE

    @property
    def small_by_design(self) -> bool:
        """Whether anything was done that makes files small: weights removed, rounded, packed."""
        return self.sparse or self.quantization is not None or len(self.files) > 1

    def to_json(self) -> str:
        """Return all of it as JSON, from which `facts_from_json` makes the same."""
        return json.dumps(_FACTS.dump_python(self, mode="json"), indent=1, allow_nan=False) + "\n"


_SPARSE = 0.01
_FACTS = TypeAdapter(Facts)


def facts_from_json(text: str) -> Facts:
    """Read what `Facts.to_json` wrote; raise `ValueError` for anything else."""
    try:
        return _FACTS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        why = f"{'.'.join(map(str, first['loc']))[:120]}: {first['msg']}"
        raise ValueError(f"these are no facts of a card ({why}); write the card again") from error
