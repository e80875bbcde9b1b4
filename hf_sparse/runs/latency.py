"""The latency of a model in several runtimes on one machine, as a value and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np

from hf_sparse.environment import hardware, versions
from hf_sparse.readers import shortened
from hf_sparse.units import counted, short

# A speed-up over the fastest other runtime below this is within the noise, and reported as no gain.
GAIN = 1.05
RUNTIMES = ("onnxruntime", "openvino")
# Larger numbers are taken for damage.
_MOST = 1e18


@dataclass(frozen=True)
class Conditions:
    """What a latency depends on besides the model; only latencies of equal conditions are compared."""

    processor: str
    cores: int
    kernels: str | None
    threads: int
    batch: int
    length: int

    @property
    def inputs(self) -> str:
        """Batch, length and threads in words."""
        threads = counted(self.threads, "thread")
        tokens = counted(self.length, "token")
        return f"batches of {self.batch} x {tokens}, {threads}"

    def __str__(self) -> str:
        kernels = f", kernels for {self.kernels}" if self.kernels else ""
        return f"{self.inputs}, {self.processor}{kernels}"


@dataclass(frozen=True)
class LatencyRow:
    """Latency of one runtime in milliseconds; `own` for the runtimes of this package.

    `weight_bytes` is the size of the weights as this runtime holds them. `difference` is the largest absolute
    difference of an output from the reference, infinite if one is not finite. `ms` has every timed call, and
    is empty where only the summary was kept.
    """

    name: str
    own: bool
    median_ms: float
    p95_ms: float
    weight_bytes: int
    difference: float
    note: str = ""
    ms: tuple[float, ...] = ()

    @classmethod
    def measured(
        cls,
        name: str,
        own: bool,
        seconds: Sequence[float],
        weight_bytes: int,
        difference: float,
        note: str = "",
    ) -> "LatencyRow":
        """Return the row of a runtime whose calls took these seconds."""
        ms = tuple(1000 * taken for taken in seconds)
        median, late = 1000 * float(np.median(seconds)), 1000 * float(np.percentile(seconds, 95))
        return cls(name, own, median, late, weight_bytes, difference, note, ms)


@dataclass(frozen=True)
class LatencyReport:
    """Latencies of one model in several runtimes, for inputs of (`batch`, `length`) tokens.

    `machine` is as `machine` returns it. `largest` is the largest absolute output of the `reference` runtime,
    from which differences are counted; `missing` gives the reason for every runtime that was not measured.
    `file` is the name of the JSON file that the report was read from.
    """

    model: str
    architecture: str
    batch: int
    length: int
    threads: int
    machine: Mapping[str, Any]
    reference: str
    largest: float
    rows: tuple[LatencyRow, ...]
    missing: Mapping[str, str]
    file: str = ""

    @property
    def ranked(self) -> list[LatencyRow]:
        """The rows, the fastest first."""
        return sorted(self.rows, key=lambda row: row.median_ms)

    @property
    def best(self) -> LatencyRow | None:
        """The fastest runtime of this package."""
        return next((row for row in self.ranked if row.own), None)

    @property
    def rival(self) -> LatencyRow | None:
        """The fastest of the other runtimes."""
        return next((row for row in self.ranked if not row.own), None)

    @property
    def speedup(self) -> float | None:
        """Latency of the fastest other runtime over that of this package."""
        if self.best is None or self.rival is None:
            return None
        return self.rival.median_ms / self.best.median_ms

    @property
    def gain(self) -> bool:
        """Whether this package's runtime is faster than every other by more than the noise."""
        return self.speedup is not None and self.speedup >= GAIN

    @property
    def verdict(self) -> str:
        """One sentence on whether this package's runtime is faster than the others."""
        best, rival = self.best, self.rival
        other = "" if rival is None else f"{rival.name} with {milliseconds(rival.median_ms)} ms"
        if best is None and rival is None:
            return "Nothing was measured."
        if best is None:
            return f"This runtime was not measured; the fastest is {other}."
        if rival is None:
            return f"No other runtime was measured; {best.name} takes {milliseconds(best.median_ms)} ms."
        if not self.gain:
            return (
                f"No gain here: of the others the fastest is {other}, and {best.name} takes "
                f"{milliseconds(best.median_ms)} ms."
            )
        return f"{best.name} is {self.speedup:.2f} times as fast as the fastest of the others, {other}."

    @property
    def conditions(self) -> Conditions:
        """The machine and the inputs that the latencies hold for."""
        found = self.machine
        return Conditions(
            found["processor"], found["cores"], found["kernels"], self.threads, self.batch, self.length
        )

    def per_second(self, row: LatencyRow) -> float:
        """Return the sequences per second of a row."""
        return 1000 * self.batch / row.median_ms

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON takes it; a number that is not finite becomes None."""
        best = self.best
        return {
            "model": self.model,
            "architecture": self.architecture,
            "batch": self.batch,
            "length": self.length,
            "threads": self.threads,
            "machine": dict(self.machine),
            "reference": self.reference,
            "largest_output": self.largest if isfinite(self.largest) else None,
            "rows": [
                {
                    "name": row.name,
                    "ours": row.own,
                    "median_ms": row.median_ms,
                    "p95_ms": row.p95_ms,
                    "sequences_per_second": self.per_second(row),
                    "weight_bytes": row.weight_bytes,
                    "largest_difference": row.difference if isfinite(row.difference) else None,
                    "times_ours": row.median_ms / best.median_ms if best else None,
                    "note": row.note,
                    "ms": list(row.ms),
                }
                for row in self.ranked
            ],
            "missing": dict(self.missing),
            "speedup": self.speedup,
            "gain": self.gain,
            "verdict": self.verdict,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], file: str = "") -> "LatencyReport":
        """Return the report that `to_dict` wrote; what follows from the rest is recomputed.

        Raises `ValueError` for a value that is missing or of another type.
        """
        fields = _Fields(found)
        machine = _Fields(fields.get("machine", Mapping), "machine.")
        machine.get("processor", str), machine.positive("cores", int)
        machine.get("kernels", str | None), machine.texts("versions")
        return cls(
            fields.get("model", str, ""),
            fields.get("architecture", str, ""),
            fields.positive("batch", int),
            fields.positive("length", int),
            fields.positive("threads", int),
            machine.values,
            fields.get("reference", str),
            fields.finite_or_infinite("largest_output"),
            tuple(_row(_Fields(row, "rows.")) for row in fields.get("rows", list)),
            fields.texts("missing"),
            file,
        )


class _Fields:
    """The values of a JSON object, each checked as it is read; `path` stands before names in errors."""

    def __init__(self, values: Any, path: str = "") -> None:
        if not isinstance(values, Mapping):
            raise ValueError(f"{path.rstrip('.') or 'the file'} is {shortened(values)}")
        self.values, self._path = values, path

    def get(self, name: str, kind: Any, *default: Any) -> Any:
        """Return a value of this type, or the default where it is missing."""
        if name not in self.values:
            if default:
                return default[0]
            raise ValueError(f"{self._path}{name!r} is missing")
        value = self.values[name]
        # To Python, True is an integer.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{self._path}{name!r} is {shortened(value)}")
        return value

    def texts(self, name: str) -> dict[str, str]:
        """Return an object whose values are all texts."""
        inner = _Fields(self.get(name, Mapping), f"{self._path}{name}.")
        return {key: inner.get(key, str) for key in inner.values}

    def positive(self, name: str, kind: Any, *default: Any) -> Any:
        """Return a number above 0."""
        value = self.get(name, kind, *default)
        if not 0 < value < _MOST:
            raise ValueError(f"{self._path}{name!r} is {shortened(value)}, and must be above 0")
        return value

    def finite_or_infinite(self, name: str) -> float:
        """Return a number, infinity in place of None or of one that is not finite."""
        value = self.get(name, int | float | None, None)
        return float(value) if value is not None and abs(value) < _MOST else inf


def _row(row: _Fields) -> LatencyRow:
    calls = row.get("ms", list, [])
    return LatencyRow(
        row.get("name", str),
        row.get("ours", bool),
        row.positive("median_ms", int | float),
        row.positive("p95_ms", int | float),
        row.positive("weight_bytes", int),
        row.finite_or_infinite("largest_difference"),
        row.get("note", str),
        tuple(_Fields({"ms": taken}, "rows.").positive("ms", int | float) for taken in calls),
    )


def machine(kernels: str | None) -> dict[str, Any]:
    """Return processor, cores, system, the name of this runtime's kernels, and versions."""
    found = hardware()
    return {
        "processor": found["processor"],
        "cores": found["cores"],
        "system": found["system"],
        "kernels": kernels,
        "versions": versions(*RUNTIMES),
    }


def milliseconds(taken: float) -> str:
    """Write milliseconds with three significant digits or more."""
    return f"{taken:.3f}" if taken < 1 else short(taken)
