"""The blocks of a page, run one after the other as a reader would."""

import ast
import importlib
import io
import shlex
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from hf_sparse.cli.main import app
from hf_sparse.readers import read_yaml
from hf_sparse.recipe.recipe import Recipe
from tests.guides.comparing import differences
from tests.guides.reading import Block, Command, commands, sides

# What a page may tell its reader to install. Tests run where all of it is installed.
INSTALLED = {
    'pip install ".[export]"',
    'pip install ".[openvino]"',
    'pip install ".[peft]"',
    'pip install ".[publish]"',
}


class Reader:
    """Follows a page in the current directory, which is empty: Python blocks share their names."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.names: dict[str, Any] = {"__name__": "guide"}
        self.printed = ""

    def follow(self, block: Block) -> None:
        """Run a block; raise `AssertionError` where it does not do what the page says."""
        if block.kind not in KINDS:
            raise AssertionError(f"{self.page}:{block.line}: no test runs blocks of kind {block.kind!r}")
        try:
            KINDS[block.kind](self, block)
        except Exception as error:
            raise AssertionError(
                f"{self.page}:{block.line}, {block.kind}: {type(error).__name__}: {error}"
            ) from error

    def python(self, block: Block) -> None:
        """Run code; lines of a traceback are those of the page."""
        self._execute(block.text, block.line)

    def text(self, block: Block) -> None:
        """Compare with the last lines of what the code before has printed."""
        shown, printed = block.text.splitlines(), self.printed.splitlines()
        self._compare(shown, printed if "..." in shown else printed[-len(shown) :])

    def yaml(self, block: Block) -> None:
        """Check a recipe; a first line `# NAME.yaml` is the file that the reader writes it to."""
        Recipe.from_dict(read_yaml(block.text))
        first = block.text.splitlines()[0]
        if first.startswith("# ") and first.endswith(".yaml"):
            Path(first.removeprefix("# ")).write_text(block.text)

    def diff(self, block: Block) -> None:
        """Run the new side; the old one is a call of another library, whose syntax alone is checked."""
        old, new = sides(block.text)
        ast.parse(old)
        self._execute(new, block.line)

    def console(self, block: Block) -> None:
        """Run commands and compare all that they print."""
        for command in commands(block.text):
            self._run(command)

    def _run(self, command: Command) -> None:
        program, *words = shlex.split(command.typed)
        if program == "pip":
            if command.typed not in INSTALLED:
                raise AssertionError(f"{command.typed!r} is not among the installations of this test")
            return
        if program == "python":
            script, *arguments = words
            module = importlib.import_module(Path(script).stem)
            with redirect_stdout(io.StringIO()) as output:
                module.main(arguments)
            printed = output.getvalue()
        elif program == "hf-sparse":
            result = CliRunner(env={"COLUMNS": "80"}).invoke(app, words)
            if result.exit_code != 0:
                raise AssertionError(f"{command.typed} exits with {result.exit_code}: {result.output}")
            printed = result.stdout
        else:
            raise AssertionError(f"{program} is no program that this test runs")
        if command.shown:
            self._compare(command.shown, printed.splitlines())

    def _execute(self, code: str, line: int) -> None:
        tree = compile("\n" * (line - 1) + code, self.page, "exec")
        with redirect_stdout(io.StringIO()) as output:
            exec(tree, self.names)
        self.printed = output.getvalue()

    def _compare(self, shown: list[str], printed: list[str]) -> None:
        if wrong := differences(shown, printed):
            raise AssertionError(
                "the page shows | it prints\n" + "\n".join(wrong) + "\n\n" + "\n".join(printed)
            )


KINDS: dict[str, Callable[[Reader, Block], None]] = {
    "python": Reader.python,
    "text": Reader.text,
    "yaml": Reader.yaml,
    "diff": Reader.diff,
    "console": Reader.console,
}
