"""Runs with what is measured of the models that they left."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from hf_sparse.checkpoint.configuration import saved_quantization
from hf_sparse.checkpoint.saved_files import weight_bytes
from hf_sparse.report.history import STATE, read_log
from hf_sparse.report.run import Run, find_runs, origin_of, pipeline_of
from hf_sparse.report.scores import worth_showing
from hf_sparse.sparsity.inspection import WeightInspection, inspect_weights
from hf_sparse.targets import find_targets
from hf_sparse.training.loading import load_trained
from hf_sparse.training.record import fact_text, read_record
from hf_sparse.units import DENSE_BELOW

OWN = "model"
# What an evaluation of answers says of a part of the questions, and what counts less than F1.
_ASIDE = ("HasAns", "NoAns", "exact")


@dataclass(frozen=True)
class Conditions:
    """What a latency was measured on; only latencies of equal conditions are compared."""

    processor: str
    cores: int
    kernels: str | None
    threads: int
    batch: int
    length: int

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        tokens = "1 token" if self.length == 1 else f"{self.length} tokens"
        kernels = f", kernels for {self.kernels}" if self.kernels else ""
        return f"batches of {self.batch} x {tokens}, {threads}, {self.processor}{kernels}"


@dataclass(frozen=True)
class Yardstick:
    """What a score was measured by; only scores of equal yardsticks are compared.

    `head` is what the model is for, as its class says: `BertForMaskedLM` gives MaskedLM.
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
        """The examples in words, to stand behind a score; empty if nothing is known of them."""
        examples = "" if self.samples is None else f" on {self.samples:,} examples"
        dataset = f" of {self.dataset}" if self.dataset else ""
        return f"{examples}{dataset}"

    def __str__(self) -> str:
        return f"{self.name}{self.basis}"


@dataclass(frozen=True)
class MeasuredRun:
    """A run under a name that tells it apart from others, with its weights and the size of its files.

    `weights` are empty where the model is not there or has none that could be pruned. `files` has the bytes
    of the weights by the form they are in: `model` for the run's own, the name of the directory in it for
    others.
    """

    run: Run
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
        """The first score that is no loss, of all questions, F1 before exact matches; None without any."""
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
        """The median of the fastest form in this runtime, in milliseconds, by conditions."""
        try:
            timed = [_timed(report) for report in self.run.latencies]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"what {self.run.directory} holds of latencies is not what hf-sparse benchmark writes "
                f"({error}); measure again, or delete it"
            ) from error
        return {conditions: min(ours) for conditions, ours in timed if ours}


def _timed(report: Mapping[str, Any]) -> tuple[Conditions, list[float]]:
    """Return the conditions and the milliseconds of this runtime.

    Raises `KeyError` or `TypeError` for what `latency_as_dict` does not make.
    """
    machine = report["machine"]
    numbers = {name: _number(report[name], name, int) for name in ("threads", "batch", "length")}
    conditions = Conditions(
        _text(machine["processor"], "processor"),
        _number(machine["cores"], "cores", int),
        None if machine["kernels"] is None else _text(machine["kernels"], "kernels"),
        **numbers,
    )
    rows = [row for row in report["rows"] if row["ours"]]
    return conditions, [_number(row["median_ms"], "median_ms", int | float) for row in rows]


def _number(value: Any, name: str, kind: Any) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool) or not isfinite(value) or value <= 0:
        raise TypeError(f"{name} is {value!r}, no number above 0")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, no text")
    return value


def gather_runs(directories: Iterable[Path]) -> list[Run]:
    """Return the run in each directory, or those in the directories in it, every run once.

    A run that was interrupted is its last checkpoint. Raises `ValueError` if there is none in one of them.
    """
    found = [run for directory in directories for run in _runs_in(directory)]
    return list({run.directory.resolve(): run for run in found}.values())


def _runs_in(directory: Path) -> list[Run]:
    if (directory / STATE).is_file() and not (directory / CONFIG_NAME).is_file():
        return [Run(directory, read_record(directory), read_log(directory))]
    return find_runs(directory)


def lines_of(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the pipelines that end in one of the runs, without those that are a part of another one."""
    pipelines = [pipeline_of(run) for run in runs]
    earlier = {stage.directory.resolve() for stages in pipelines for stage in stages[:-1]}
    return [stages for stages in pipelines if stages[-1].directory.resolve() not in earlier]


def teachers_of(runs: Iterable[Run]) -> list[Run]:
    """Return the runs that made the teachers of others, as far as they lie on this machine, each once."""
    found = [teacher for run in runs if (teacher := origin_of(run, "teacher")) is not None]
    return list({run.directory.resolve(): run for run in found}.values())


def measure_run(run: Run, name: str) -> MeasuredRun:
    """Load the model of a run to look at its weights; raises as `load_trained` does."""
    files = _files(run.directory)
    return MeasuredRun(run, name, _inspect(run.directory) if OWN in files else (), files)


def _inspect(directory: Path) -> tuple[WeightInspection, ...]:
    model = load_trained(str(directory))
    try:
        targets = find_targets(model)
    except ValueError:
        # There are models without a layer that could be pruned.
        return ()
    return inspect_weights(targets)


def _files(directory: Path) -> dict[str, int]:
    places = {OWN: directory} | {path.parent.name: path.parent for path in _other_forms(directory)}
    sizes = {}
    for form, place in places.items():
        try:
            sizes[form] = weight_bytes(str(place))
        except FileNotFoundError:
            # Weights are large, and are deleted before logs are.
            continue
    return sizes


def _other_forms(directory: Path) -> list[Path]:
    found = []
    for path in sorted(directory.glob(f"*/{CONFIG_NAME}")):
        checkpoint = path.parent.name.startswith(PREFIX_CHECKPOINT_DIR)
        if not checkpoint and saved_quantization(path) is not None:
            found.append(path)
    return found


def names_of(runs: Sequence[Run]) -> list[str]:
    """Return names of runs by as much of the end of their paths as tells them apart."""
    paths = [run.directory.resolve().parts for run in runs]
    names = []
    for parts in paths:
        # Every run has checkpoints of such names.
        count = 2 if parts[-1].startswith(PREFIX_CHECKPOINT_DIR) else 1
        while count < len(parts) and any(
            other != parts and other[-count:] == parts[-count:] for other in paths
        ):
            count += 1
        names.append("/".join(parts[-count:]))
    return names
