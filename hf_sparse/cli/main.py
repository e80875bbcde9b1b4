"""The command `hf-sparse`."""

import sys
from typing import Annotated

import typer

from hf_sparse import __version__
from hf_sparse.cli.benchmark import benchmark
from hf_sparse.cli.commands import Command, Commands
from hf_sparse.cli.compare import compare
from hf_sparse.cli.demo import demo
from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.evaluate_distance import evaluate_distance
from hf_sparse.cli.export import export
from hf_sparse.cli.inspect import inspect
from hf_sparse.cli.pack import pack
from hf_sparse.cli.plan import plan
from hf_sparse.cli.prune import prune
from hf_sparse.cli.push import push
from hf_sparse.cli.quantize import quantize
from hf_sparse.cli.report import report
from hf_sparse.cli.rescue import rescue
from hf_sparse.cli.shrink import shrink
from hf_sparse.cli.targets import targets

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Sparse, distilled, 8-bit models. Try: hf-sparse demo --output-dir my_demo",
)
# In the order of work.
for command in (
    demo,
    targets,
    plan,
    prune,
    shrink,
    inspect,
    evaluate_distance,
    quantize,
    pack,
    export,
    benchmark,
    report,
    compare,
    push,
    rescue,
):
    # A line that is given is not cut off.
    app.command(cls=Command, short_help=command.__doc__.splitlines()[0])(command)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hf-sparse {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    context.obj = debug


def main() -> None:
    """Run the command line."""
    try:
        # Help and the version are written outside of commands.
        with plain_errors("--debug" in sys.argv):
            if sys.stdout is None:
                raise OSError("standard output is closed; send it to a file, or to /dev/null")
            app()
    except typer.Exit as done:
        sys.exit(done.exit_code)
