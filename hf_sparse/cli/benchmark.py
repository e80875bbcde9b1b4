"""`hf-sparse benchmark`."""

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors, require
from hf_sparse.cli.options import BatchSizeToTime, Json, Model, Png, Variant, chosen_weights
from hf_sparse.cli.progress import counted, working

_TOKENS = 128


def benchmark(
    context: typer.Context,
    model: Model,
    variant: Variant = None,
    batch_size: BatchSizeToTime = 1,
    max_seq_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of each text: every text has exactly this length. By default 128, or the most that "
            "the model takes if that is less.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Number of CPU threads, for each runtime.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Number of timed calls of each runtime.")] = 20,
    warm_up: Annotated[
        int, typer.Option(min=0, help="Number of calls of each runtime before the timed ones.")
    ] = 2,
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Measure how fast a model runs, beside other runtimes.

    All runtimes get the same random texts, in turns: hf_sparse, PyTorch, ONNX Runtime and OpenVINO, in
    float32 and in int8. The largest difference of their outputs from those of PyTorch is shown as well.

    Try: hf-sparse benchmark my_model_int8 --threads 2 --png latency.png
    """
    with plain_errors(context.obj), chosen_weights(model, variant) as model:
        _require_cores(threads)
        with working("Loading"):
            from hf_sparse.benchmark.backends import BACKENDS, REFERENCE, prepare
            from hf_sparse.benchmark.inputs import Job, random_inputs
            from hf_sparse.benchmark.latency import limited, measure
            from hf_sparse.checkpoint.load import load_model
            from hf_sparse.data.positions import most_tokens
            from hf_sparse.demo.progress import silence
            from hf_sparse.report.latency import latency_figure, print_latency
            from hf_sparse.report.pictures import require_png, write_png
            from hf_sparse.runs.latency import LatencyReport, machine
            from hf_sparse.runtime.bindings import load_kernels

            if png is not None:
                # Before anything is measured.
                require("--png", "demo", "matplotlib")
                require_png(png)
            loaded = load_model(model, accept="own").float()
            length = max_seq_length or min(_TOKENS, most_tokens(loaded) or _TOKENS)
            inputs = random_inputs(loaded, batch_size, length)
            kernels = load_kernels()
        with tempfile.TemporaryDirectory() as scratch, limited(threads), silence():
            job = Job(loaded, inputs, threads, Path(scratch))
            field = prepare(job, counted(BACKENDS, "Preparing"))
            reference = field.output(REFERENCE)
            rounds = counted(range(repeats), "Measuring")
            rows = measure(field.models, reference, rounds, warm_up)
        report = LatencyReport(
            model,
            type(loaded).__name__,
            batch_size,
            length,
            threads,
            machine(None if kernels is None else kernels.path),
            REFERENCE,
            reference.abs().max().item(),
            rows,
            field.missing,
        )
        if png is not None:
            write_png(latency_figure(report), png)
        if as_json:
            typer.echo(json.dumps(report.to_dict()))
        else:
            print_latency(report, Console())


def _require_cores(threads: int) -> None:
    # OpenMP ends the process if it cannot start all of them.
    cores = os.cpu_count() or 1
    if threads > 4 * cores:
        raise ValueError(
            f"--threads {threads} is more than 4 for each of the {cores} cores here; take {4 * cores} or "
            "fewer"
        )
