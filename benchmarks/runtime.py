"""Latency of the CPU runtime: BERT-base in several patterns beside OpenVINO, ONNX Runtime and PyTorch.

Weights and masks are random, since the time does not depend on their values. Models take turns in one
process, with two calls in a row, of which the second counts. Ratios are medians over the rounds. The other
runtimes compute zeros like other weights, so they are measured with one pattern. The result file is named
after the processor's fastest instructions for 8 bits, because ratios differ between them.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from rich.progress import track
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from hf_sparse import find_targets
from hf_sparse.benchmark.backends import OnnxRuntime, OpenVino
from hf_sparse.benchmark.eager import Fuse, Optimize, PyTorch, PyTorchInt8
from hf_sparse.benchmark.inputs import Job, random_inputs
from hf_sparse.benchmark.latency import Prepared, limited, measure
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runs.latency import LatencyRow
from hf_sparse.runtime.bindings import load_kernels
from measuring import instructions, write_results

# Rows and columns of a block, share of zeros, the name in the table.
PATTERNS = {
    "4x4 at 90 %": (4, 4, 0.9),
    "1x4 at 90 %": (1, 4, 0.9),
    "4x1 at 90 %": (4, 1, 0.9),
    "4x4 at 80 %": (4, 4, 0.8),
    "unstructured at 90 %": (1, 1, 0.9),
    "dense": (1, 1, 0.0),
}
FIRST = "4x4 at 90 %"
# For each batch x length: patterns and number of rounds.
SHAPES = {(1, 128): (tuple(PATTERNS), 15), (1, 384): ((FIRST,), 7), (8, 128): ((FIRST,), 5)}
OTHERS = ("OpenVINO int8", "ONNX Runtime int8", "PyTorch int8", "PyTorch")
# Speed-ups that the runtime was designed to reach.
BARS = {
    (FIRST, 128, 1): "4.5 OpenVINO, 5.5 ONNX Runtime, 30 PyTorch",
    ("1x4 at 90 %", 128, 1): "3.5 OpenVINO",
    ("4x1 at 90 %", 128, 1): "3.5 OpenVINO",
    ("4x4 at 80 %", 128, 1): "3.3 OpenVINO",
    ("unstructured at 90 %", 128, 1): "1.8 OpenVINO",
    ("dense", 128, 1): "1 OpenVINO",
    (FIRST, 384, 1): "3.5 OpenVINO",
    (FIRST, 128, 8): "3.5 OpenVINO",
    (f"{FIRST}, optimize", 128, 1): "2.5 OpenVINO",
}
COLUMNS = ("model", "batch x tokens", "ms", *(f"x {name}" for name in OTHERS), "bar, x")


def build(name: str, inputs: dict[str, Tensor], embeddings: str | None = None) -> PreTrainedModel:
    """Return BERT-base with a random mask of a pattern, quantized to 8 bits."""
    tall, wide, sparsity = PATTERNS[name]
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_labels=2)).eval()
    for target in find_targets(model):
        rows, columns = target.weight.shape
        kept = torch.rand(rows // tall, columns // wide, generator=generator) >= sparsity
        with torch.no_grad():
            target.weight.mul_(kept.repeat_interleave(tall, 0).repeat_interleave(wide, 1))
    calibrate(model, [inputs], embeddings=embeddings)
    return model


def models(patterns: tuple[str, ...], batch: int, length: int, threads: int, scratch: Path) -> list[Prepared]:
    """Return the models of one shape: in this runtime for every pattern, then in the others."""
    found = []
    for name in patterns:
        inputs = random_inputs(BertForSequenceClassification(BertConfig(num_hidden_layers=0)), batch, length)
        job = Job(build(name, inputs), inputs, threads, scratch)
        found.append(replace(Fuse().prepare(job), name=name))
        if name != FIRST:
            continue
        found.append(replace(Optimize().prepare(job), name=f"{name}, optimize"))
        # ONNX Runtime rounds weights and inputs its own way, and is faster so than with fixed ranges.
        plain = Job(job.plain, inputs, threads, scratch)
        others = (
            OpenVino("int8").prepare(job),
            OnnxRuntime("int8").prepare(plain),
            PyTorchInt8().prepare(job),
            PyTorch().prepare(job),
        )
    return found + [replace(model, name=name) for name, model in zip(OTHERS, others, strict=True)]


def rows_of(measured: Sequence[LatencyRow], batch: int, length: int) -> list[dict[str, object]]:
    """Return a row of the table for each model in this runtime."""
    others = {one.name: one for one in measured if not one.own}
    rows = []
    for one in measured:
        if not one.own:
            continue
        row = {"model": one.name, "batch x tokens": f"{batch} x {length}", "ms": one.median_ms}
        for name, other in others.items():
            ratios = [slow / fast for slow, fast in zip(other.ms, one.ms, strict=True)]
            row[f"x {name}"] = round(median(ratios), 2)
            row[f"{name} ms"] = round(other.median_ms, 1)
        row["bar, x"] = BARS.get((one.name, length, batch))
        row["ms"] = round(row["ms"], 1)
        row["weights MB"] = round(one.weight_bytes / 1e6, 1)
        rows.append(row)
        print({key: value for key, value in row.items() if key in COLUMNS}, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    kernels = load_kernels()
    if kernels is None:
        raise RuntimeError("the kernels need a C++ compiler; install one")
    rows = []
    for (batch, length), (patterns, rounds) in SHAPES.items():
        with tempfile.TemporaryDirectory() as scratch, limited(options.threads):
            timed = models(patterns, batch, length, options.threads, Path(scratch))
            turns = track(range(rounds), f"{batch} x {length}")
            rows += rows_of(measure(timed, timed[0].call(), turns), batch, length)
    settings = {
        "model": "BERT-base for classification, random weights and masks, embeddings and head included",
        "path": kernels.path,
        "threads": options.threads,
        "rounds": {f"{batch} x {length}": rounds for (batch, length), (_, rounds) in SHAPES.items()},
    }
    fastest = instructions()
    print(write_results(f"runtime_{fastest}", f"The CPU runtime with {fastest}", rows, settings, COLUMNS))


if __name__ == "__main__":
    main()
