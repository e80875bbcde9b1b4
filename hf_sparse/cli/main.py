"""The command `hf-sparse`: its list of commands, and how a command line is read."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from hf_sparse import __version__
from hf_sparse.cli import options
from hf_sparse.cli.errors import plain_errors

if TYPE_CHECKING:
    from collections.abc import Callable

# In the order of work. `hf-sparse a-name` is the function `a_name` in hf_sparse/cli/a_name.py.
COMMANDS = (
    "demo",
    "targets",
    "plan",
    "prune",
    "shrink",
    "inspect",
    "evaluate_distance",
    "quantize",
    "pack",
    "export",
    "benchmark",
    "serve",
    "report",
    "compare",
    "verify_resume",
    "push",
    "rescue",
)
# Left out of help: the reader has found the one; the other prints what --install-completion installs.
_HIDDEN = ("help", "show_completion")
# What typer's methods take is a parent of `typer.Context` that typer does not export.
Context: TypeAlias = Any


class Command(TyperCommand):
    """One command, which also takes the old names of its options."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        names = options.OLD_OPTIONS.get(self.name or "", {})
        return super().parse_args(ctx, list(options.with_new_options(args, names)))


class Commands(TyperGroup):
    """All commands; `--debug` may stand before or behind the name of one, and the list fits a screen."""

    def get_params(self, ctx: Context) -> list[Any]:
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if isinstance(parameter, TyperOption) and parameter.name in _HIDDEN:
                parameter.hidden = True
        return parameters

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        """Name every option: with so many commands a screen lacks the lines to list them."""
        shown = [each for each in self.get_params(ctx) if isinstance(each, TyperOption) and not each.hidden]
        return [*(f"[{each.opts[0]}]" for each in shown), *super().collect_usage_pieces(ctx)[1:]]

    def format_options(self, ctx: Context, formatter: Any) -> None:
        """Write the list of commands, without that of options."""
        self.format_commands(ctx, formatter)

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        words = [word for word in args[:end] if word != "--debug"]
        debug = ["--debug"] if len(words) < end else []
        return super().parse_args(ctx, [*debug, *words, *args[end:]])


def _with_dashes(name: str) -> str:
    """Return the name of an option as it is declared: scripts/ write underscores, and so may commands."""
    return name.replace("_", "-")


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    # With the name of the program it fits into a line, of which a screen lacks some.
    subcommand_metavar="COMMAND ...",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"token_normalize_func": _with_dashes},
    help="Sparse, distilled, 8-bit models. Try: hf-sparse demo --output-dir my_demo",
)
for name in COMMANDS:
    command: "Callable[..., None]" = getattr(import_module(f"hf_sparse.cli.{name}"), name)
    # Without a short help of its own, typer cuts the first line of the docstring off.
    app.command(cls=Command, short_help=(command.__doc__ or "").partition("\n")[0])(command)


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
            app(prog_name="hf-sparse")
    except typer.Exit as done:
        sys.exit(done.exit_code)
