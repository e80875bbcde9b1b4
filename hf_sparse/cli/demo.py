"""`hf-sparse demo`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import DatasetConfigName, Json, Sparsity


def demo(
    context: typer.Context,
    output_dir: Annotated[
        Path, typer.Option(help="Directory for models, results and picture. It is made if it does not exist.")
    ] = Path("hf_sparse_demo"),
    model_name_or_path: Annotated[
        str | None,
        typer.Option(
            help="Model to train: Hub name or directory of a masked language model. By default a small new "
            "BERT."
        ),
    ] = None,
    dataset_name: Annotated[
        str | None,
        typer.Option(
            help="Dataset: Hub name, directory or file of texts with labels, the task to learn. By default "
            "docstrings of Python's standard library."
        ),
    ] = None,
    dataset_config_name: DatasetConfigName = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="Text to pre-train on: Hub dataset, directory or file. By default the texts of the dataset."
        ),
    ] = None,
    sparsity: Sparsity = 0.9,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    budget: Annotated[
        float,
        typer.Option(help="Factor that multiplies the training steps of every stage: above 0, at most 1000."),
    ] = 1.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Train for a few steps only, to see that everything works.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Prune, transfer and quantize a small model, and compare.

    The demo needs no network. Without --model-name-or-path and --dataset-name, it reads Python's own
    documentation, and the task is to tell which part of the standard library a docstring comes from. Stages
    that are complete in the output directory are not run again.

    Try: hf-sparse demo --output-dir my_demo
    """
    with plain_errors(context.obj):
        from hf_sparse.demo.run import RESULTS, run_demo
        from hf_sparse.demo.settings import DemoSettings

        settings = DemoSettings(
            output_dir=output_dir,
            model=model_name_or_path,
            dataset=dataset_name,
            dataset_config=dataset_config_name,
            text=text,
            sparsity=sparsity,
            seed=seed,
            budget=budget,
            quick=quick,
        )
        run_demo(settings, Console(stderr=as_json))
        if as_json:
            typer.echo((output_dir / RESULTS).read_text(encoding="utf-8"), nl=False)
