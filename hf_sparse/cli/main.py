"""The command `hf-sparse`."""

from typing import Annotated

import typer

from hf_sparse.cli.benchmark import benchmark
from hf_sparse.cli.demo import demo
from hf_sparse.cli.export import export
from hf_sparse.cli.history import history
from hf_sparse.cli.inspect import inspect
from hf_sparse.cli.pack import pack
from hf_sparse.cli.plan import plan
from hf_sparse.cli.prune import prune
from hf_sparse.cli.quantize import quantize
from hf_sparse.cli.shrink import shrink
from hf_sparse.cli.targets import targets

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Sparse, distilled, 8-bit transformers.\n\nTry: hf-sparse demo --output-dir my_demo",
)
for command in (demo, targets, plan, prune, shrink, inspect, history, quantize, pack, export, benchmark):
    app.command()(command)


@app.callback()
def _common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    context.obj = debug


def main() -> None:
    """Run the command line."""
    app()
