"""How the command line is taken apart, and what its help shows."""

from typing import Any

from typer import Context
from typer.core import TyperCommand, TyperGroup

# Help must fit a screen. Its reader has found the one; the other prints what --install-completion installs.
_UNSHOWN = ("help", "show_completion")


class Command(TyperCommand):
    """One command, whose help fits a screen."""

    def get_params(self, ctx: Context) -> list[Any]:
        return _without_unshown(super().get_params(ctx))


class Commands(TyperGroup):
    """All commands; `--debug` counts wherever it stands."""

    def get_params(self, ctx: Context) -> list[Any]:
        return _without_unshown(super().get_params(ctx))

    def get_help(self, ctx: Context) -> str:
        """Leave out the empty line below the first: with so many commands a screen has none to spare."""
        return super().get_help(ctx).replace("\n\n", "\n", 1)

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        words = [word for word in args[:end] if word != "--debug"]
        debug = ["--debug"] if len(words) < end else []
        return super().parse_args(ctx, [*debug, *words, *args[end:]])


def _without_unshown(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if parameter.name in _UNSHOWN:
            parameter.hidden = True
    return parameters
