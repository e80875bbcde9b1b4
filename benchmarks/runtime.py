"""Latency of the CPU runtime: BERT-base in several patterns beside OpenVINO, ONNX Runtime and PyTorch.

Weights and masks are random, since the time does not depend on their values. Models take turns in one
process, with two calls in a row, of which the second counts. Ratios are medians over the rounds: of the time
that the process had a processor on one thread, of the clock on several. The other runtimes compute zeros like
other weights, so they are measured with one pattern. The result file is named after the processor's fastest
instructions for 8 bits, because ratios differ between them, and after those that others were kept to.

On processors with AMX the others use it. `--isa AVX512_CORE_VNNI` keeps OpenVINO and PyTorch to the
instructions that processors without it have (the variable ONEDNN_MAX_CPU_ISA of oneDNN).
"""

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
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
from hf_sparse.benchmark.latency import Prepared, limited
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime.bindings import load_kernels
from measuring import Timed, company, instructions, time_in_turns, write_results

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
# Speed-ups over OpenVINO with AVX-512 VNNI, on one thread, that the runtime is designed to reach.
BARS = {
    (FIRST, 128, 1): 6,
    ("1x4 at 90 %", 128, 1): 4.5,
    ("unstructured at 90 %", 128, 1): 3.5,
    ("dense", 128, 1): 1.3,
    (FIRST, 384, 1): 5,
    (FIRST, 128, 8): 5,
    (f"{FIRST}, optimize", 128, 1): 3,
}
VNNI = "avx512_core_vnni"
COLUMNS = ("model", "batch x tokens", "ms", "CPU ms", *(f"x {name}" for name in OTHERS), "bar, x OpenVINO")


def build(
    name: str,
    inputs: dict[str, Tensor],
    embeddings: str | None = None,
    config: BertConfig | None = None,
) -> PreTrainedModel:
    """Return BERT-base, or one of another shape, with a random mask of a pattern, quantized to 8 bits."""
    tall, wide, sparsity = PATTERNS[name]
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = BertForSequenceClassification(config or BertConfig(num_labels=2)).eval()
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


def rows_of(
    models: Sequence[Prepared],
    timed: Mapping[str, Timed],
    batch: int,
    length: int,
    threads: int,
    bars: Mapping[tuple[str, int, int], float],
) -> list[dict[str, object]]:
    """Return a row of the table for each model in this runtime."""
    rows = []
    for model in models:
        if not model.own:
            continue
        one = timed[model.name]
        row: dict[str, object] = {"model": model.name, "batch x tokens": f"{batch} x {length}"}
        row["ms"], row["CPU ms"] = round(median(one.wall), 1), round(median(one.cpu), 1)
        for name in OTHERS:
            other = timed[name]
            times = (other.cpu, one.cpu) if threads == 1 else (other.wall, one.wall)
            row[f"x {name}"] = round(median(slow / fast for slow, fast in zip(*times, strict=True)), 2)
            row[f"{name} ms"] = round(median(other.wall), 1)
            row[f"{name} CPU ms"] = round(median(other.cpu), 1)
        row["bar, x OpenVINO"] = bars.get((model.name, length, batch))
        row["weights MB"] = round(model.weight_bytes / 1e6, 1)
        rows.append(row)
        print({key: value for key, value in row.items() if key in COLUMNS}, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", help="Instructions that oneDNN may use at most, such as AVX512_CORE_VNNI.")
    options = parser.parse_args()
    if options.isa:
        # oneDNN reads it at its first use.
        os.environ["ONEDNN_MAX_CPU_ISA"] = options.isa
    kernels = load_kernels()
    if kernels is None:
        raise RuntimeError("the kernels need a C++ compiler; install one")
    fastest, kept = instructions(), (options.isa or "").lower()
    bars = BARS if options.threads == 1 and (kept == VNNI or fastest == "avx512_vnni") else {}
    rows, busy = [], {}
    for (batch, length), (patterns, rounds) in SHAPES.items():
        with tempfile.TemporaryDirectory() as scratch, limited(options.threads):
            ready = models(patterns, batch, length, options.threads, Path(scratch))
            turns = track(range(rounds), f"{batch} x {length}")
            timed = time_in_turns({model.name: model.call for model in ready}, turns)
            rows += rows_of(ready, timed, batch, length, options.threads, bars)
            busy[f"{batch} x {length}"] = company(timed, options.threads)
            print(busy, flush=True)
    settings = {
        "model": "BERT-base for classification, random weights and masks, embeddings and head included",
        "path": kernels.path,
        "threads": options.threads,
        "ratios of": "CPU time" if options.threads == 1 else "wall time",
        "oneDNN": options.isa or "all instructions",
        "machine": busy,
        "rounds": {f"{batch} x {length}": rounds for (batch, length), (_, rounds) in SHAPES.items()},
    }
    parts = (fastest, kept and f"others_{kept}", f"{options.threads}_threads" * (options.threads > 1))
    name = "_".join(filter(None, ("runtime", *parts)))
    print(write_results(name, f"The CPU runtime with {fastest}", rows, settings, COLUMNS))


if __name__ == "__main__":
    main()
