"""`hf-sparse demo`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Json


def demo(
    context: typer.Context,
    output_dir: Annotated[Path, typer.Option(help="Where all goes.")] = Path("hf_sparse_demo"),
    model: Annotated[
        str | None, typer.Option(help="Masked language model to start from: name or path.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Texts with labels: Hub name, directory or file.")
    ] = None,
    dataset_config: Annotated[
        str | None, typer.Option(help="Configuration of a Hub data set, as sst2.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Text to pre-train on: Hub name, directory or file.")
    ] = None,
    sparsity: Annotated[float, typer.Option(help="Share of weights to remove.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Decides everything random.")] = 0,
    budget: Annotated[float, typer.Option(help="Multiplies the steps of every stage.")] = 1.0,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps only, to see that it works.")] = False,
    as_json: Json = False,
) -> None:
    """Prune a small model once, transfer, quantize, compare.

    Needs no network. Without --model and --dataset, the text is Python's own documentation, and the task is
    to tell which part of the standard library a docstring belongs to. A stage found in the output directory
    is not run again.

    Try: hf-sparse demo --output-dir my_demo
    """
    with plain_errors(context.obj):
        from hf_sparse.demo.job import RESULTS, run_demo
        from hf_sparse.demo.settings import DemoSettings

        settings = DemoSettings(
            output_dir=output_dir,
            model=model,
            dataset=dataset,
            dataset_config=dataset_config,
            text=text,
            sparsity=sparsity,
            seed=seed,
            budget=budget,
            quick=quick,
        )
        run_demo(settings, Console(stderr=as_json))
        if as_json:
            typer.echo((output_dir / RESULTS).read_text(encoding="utf-8"), nl=False)
