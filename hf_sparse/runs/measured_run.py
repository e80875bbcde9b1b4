"""Runs with measurements of their models: weights, file sizes, scores, latencies."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from hf_sparse.checkpoint.configuration import saved_quantization
from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.run_record import fact_text, read_record
from hf_sparse.checkpoint.saved_files import weight_bytes
from hf_sparse.runs.history import STATE, read_log
from hf_sparse.runs.latency import Conditions
from hf_sparse.runs.run import SavedRun, find_runs, origin_of, pipeline_of
from hf_sparse.runs.score_text import worth_showing
from hf_sparse.sparsity.inspection import WeightInspection, inspect_weights
from hf_sparse.targets import find_targets
from hf_sparse.units import DENSE_BELOW

OWN = "model"
# Scores on a part of the questions, and those that count less than F1.
_ASIDE = ("HasAns", "NoAns", "exact")


@dataclass(frozen=True)
class Yardstick:
    """Metric and data of a score; only scores of equal yardsticks are compared.

    `head` is the part of the class after `For`: `BertForMaskedLM` gives MaskedLM. `samples` is the number of
    examples, None if unknown.
    """

    metric: str
    samples: int | None
    head: str
    dataset: str

    @property
    def name(self) -> str:
        """The metric in words."""
        return self.metric.replace("_", " ")

    @property
    def basis(self) -> str:
        """The examples in words, such as " on 872 examples of sst2"; empty if unknown."""
        examples = "" if self.samples is None else f" on {self.samples:,} examples"
        dataset = f" of {self.dataset}" if self.dataset else ""
        return f"{examples}{dataset}"

    def __str__(self) -> str:
        return f"{self.name}{self.basis}"


@dataclass(frozen=True)
class MeasuredRun:
    """A run under a unique name, with its weights and the size of its files.

    `weights` is empty if the model is missing or has nothing to prune. `files` maps each form of the weights
    to its bytes: `model` for the run's own, the name of a directory in the run for others.
    """

    run: SavedRun
    name: str
    weights: tuple[WeightInspection, ...]
    files: Mapping[str, int]

    @property
    def sparsity(self) -> float | None:
        total = sum(weight.size for weight in self.weights)
        return sum(weight.zeros for weight in self.weights) / total if total else None

    @property
    def dense(self) -> bool:
        return self.sparsity is not None and self.sparsity < DENSE_BELOW

    @property
    def pattern(self) -> str | None:
        """The pattern of most of the weights, None if the model is dense."""
        if self.dense or not self.weights:
            return None
        return Counter(weight.pattern for weight in self.weights).most_common(1)[0][0]

    @property
    def smallest(self) -> tuple[str, int] | None:
        """The smallest form and its bytes."""
        return min(self.files.items(), key=lambda item: item[1], default=None)

    @property
    def yardstick(self) -> Yardstick | None:
        """The metric that is compared: no loss if there are others, and F1 before exact match."""
        if not self.run.scores:
            return None
        metric = min(worth_showing(self.run.scores), key=lambda name: name.startswith(_ASIDE))
        record = self.run.record or {}
        facts = record.get("facts", {})
        dataset = " ".join(
            fact_text(facts[part]) for part in ("dataset", "config", "split") if facts.get(part)
        )
        head = record.get("architecture", "").partition("For")[2]
        return Yardstick(metric, self.run.samples, head, dataset)

    @property
    def score(self) -> float | None:
        return None if self.yardstick is None else self.run.scores[self.yardstick.metric]

    @property
    def latencies(self) -> dict[Conditions, float]:
        """The median of the fastest runtime of this package, in milliseconds, by conditions."""
        reports = self.run.latency_reports()
        return {report.conditions: report.best.median_ms for report in reports if report.best is not None}


def gather_runs(directories: Iterable[Path]) -> list[SavedRun]:
    """Return the run in each directory, or the runs in its subdirectories, every run once.

    An interrupted run is represented by its last checkpoint. Raises `ValueError` if a directory is empty.
    """
    found = [run for directory in directories for run in _runs_in(directory)]
    return list({run.directory.resolve(): run for run in found}.values())


def _runs_in(directory: Path) -> list[SavedRun]:
    if (directory / STATE).is_file() and not (directory / CONFIG_NAME).is_file():
        return [SavedRun(directory, read_record(directory), read_log(directory))]
    return find_runs(directory)


def lines_of(runs: Sequence[SavedRun]) -> list[list[SavedRun]]:
    """Return the pipelines that end in one of the runs, except those that are part of a longer one."""
    pipelines = [pipeline_of(run) for run in runs]
    earlier = {stage.directory.resolve() for stages in pipelines for stage in stages[:-1]}
    return [stages for stages in pipelines if stages[-1].directory.resolve() not in earlier]


def teachers_of(runs: Iterable[SavedRun]) -> list[SavedRun]:
    """Return the runs that trained the teachers of others, each once, if they lie on this machine."""
    found = [teacher for run in runs if (teacher := origin_of(run, "teacher")) is not None]
    return list({run.directory.resolve(): run for run in found}.values())


def measure_run(run: SavedRun, name: str) -> MeasuredRun:
    """Load the model of a run and inspect its weights; raises what `load_model` raises."""
    files = _files(run.directory)
    return MeasuredRun(run, name, _inspect(run.directory) if OWN in files else (), files)


def _inspect(directory: Path) -> tuple[WeightInspection, ...]:
    model = load_model(directory)
    try:
        targets = find_targets(model)
    except ValueError:
        # The model lacks layers that can be pruned.
        return ()
    return inspect_weights(targets)


def _files(directory: Path) -> dict[str, int]:
    places = {OWN: directory} | {path.parent.name: path.parent for path in _other_forms(directory)}
    sizes = {}
    for form, place in places.items():
        try:
            sizes[form] = weight_bytes(str(place))
        except FileNotFoundError:
            # Weights were deleted to save space, and the log was kept.
            continue
    return sizes


def _other_forms(directory: Path) -> list[Path]:
    found = []
    for path in sorted(directory.glob(f"*/{CONFIG_NAME}")):
        checkpoint = path.parent.name.startswith(PREFIX_CHECKPOINT_DIR)
        if not checkpoint and saved_quantization(path) is not None:
            found.append(path)
    return found


def names_of(runs: Sequence[SavedRun]) -> list[str]:
    """Return the shortest ends of the runs' paths that are unique."""
    paths = [run.directory.resolve().parts for run in runs]
    names = []
    for parts in paths:
        # `checkpoint-500` alone is ambiguous.
        count = 2 if parts[-1].startswith(PREFIX_CHECKPOINT_DIR) else 1
        while count < len(parts) and any(
            other != parts and other[-count:] == parts[-count:] for other in paths
        ):
            count += 1
        names.append("/".join(parts[-count:]))
    return names
