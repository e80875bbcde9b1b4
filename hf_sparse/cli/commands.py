"""How the command line is taken apart, and what its help shows."""

from contextlib import ExitStack
from typing import Any

from typer import Context
from typer.core import TyperCommand, TyperGroup

from hf_sparse.cli.errors import plain_errors

# Help must fit a screen. Its reader has found the one; the other prints what --install-completion installs.
_UNSHOWN = ("help", "show_completion")
# The argument that names a saved model.
_MODEL, _VARIANT = "model", "--variant"


class Command(TyperCommand):
    """One command, whose help fits a screen; where it takes a model, `--variant` says which weights of it."""

    def get_params(self, ctx: Context) -> list[Any]:
        return _without_unshown(super().get_params(ctx))

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        if any(one.name == _MODEL and one.param_type_name == "argument" for one in self.params):
            args, ctx.meta[_VARIANT] = _taken(_VARIANT, args, ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Context) -> Any:
        with ExitStack() as views:
            if variant := ctx.meta.get(_VARIANT):
                with plain_errors(ctx.obj):
                    from hf_sparse.checkpoint.variants import with_variant

                    ctx.params[_MODEL] = views.enter_context(with_variant(ctx.params[_MODEL], variant))
            return super().invoke(ctx)


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


def _taken(option: str, args: list[str], ctx: Context) -> tuple[list[str], str | None]:
    """Take an option with its value out of the words of a command line; return the others and the value."""
    end = args.index("--") if "--" in args else len(args)
    for place, word in enumerate(args[:end]):
        name, equals, value = word.partition("=")
        if name == option:
            if not equals and (place + 1 == end or args[place + 1].startswith("-")):
                ctx.fail(f"Option {option!r} requires an argument, such as fp16.")
            rest = args[place + 1 :] if equals else args[place + 2 :]
            return [*args[:place], *rest], value if equals else args[place + 1]
    return args, None


def _without_unshown(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if parameter.name in _UNSHOWN:
            parameter.hidden = True
    return parameters
