"""The command `hf-sparse`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Sparse, distilled transformers.\n\nTry: hf-sparse demo --output-dir my_demo",
)

# Of the machine, the data, the settings; anything else is a fault of the program, whose traceback is wanted.
_EXPECTED = (ValueError, OSError, RuntimeError, ImportError)


@app.callback()
def _common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    context.obj = debug


@app.command()
def demo(
    context: typer.Context,
    output_dir: Annotated[Path, typer.Option(help="Where models, results and picture go.")] = Path(
        "hf_sparse_demo"
    ),
    model: Annotated[
        str | None, typer.Option(help="Masked language model to start from: Hub name or directory.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Texts with labels: Hub name, directory or file.")
    ] = None,
    dataset_config: Annotated[
        str | None, typer.Option(help="Configuration of a Hub data set, such as sst2.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Text to pre-train on: Hub name, directory or file.")
    ] = None,
    sparsity: Annotated[float, typer.Option(help="Share of the encoder's weights to remove.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Decides everything random.")] = 0,
    budget: Annotated[float, typer.Option(help="Multiplies the steps of every stage.")] = 1.0,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps only, to see that it works.")] = False,
) -> None:
    """Prune a small model once while distilling, transfer it to a task, compare; needs no network.

    Without --model and --dataset, the text is Python's own documentation, and the task is to tell which part
    of the standard library a docstring belongs to. A stage found in the output directory is not run again.
    """
    with _plain_errors(context.obj):
        from hf_sparse.demo.job import run_demo
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
        run_demo(settings, Console())


@app.command()
def targets(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Hub name or directory.")],
    include: Annotated[
        list[str] | None, typer.Option(help="Choose Linears by name or regular expression.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave out some of them, likewise.")] = None,
) -> None:
    """Show which weights of a model a recipe would prune, with the reason for every Linear left out."""
    with _plain_errors(context.obj):
        from transformers import AutoConfig, AutoModel

        from hf_sparse.targets import find_targets

        loaded = AutoModel.from_pretrained(model, config=AutoConfig.from_pretrained(model))
        typer.echo(find_targets(loaded, include or (), exclude or ()))


def main() -> None:
    """Run the command line."""
    app()


@contextmanager
def _plain_errors(debug: bool) -> Iterator[None]:
    """Print the first line of an expected error and exit with 1."""
    try:
        yield
    except _EXPECTED as error:
        if debug:
            raise
        first, *more = str(error).strip().splitlines() or [type(error).__name__]
        hint = " (more with hf-sparse --debug)" if more else ""
        message = f"hf-sparse: {first}{hint}"
        Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
