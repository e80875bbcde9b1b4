"""Help in 80 columns, the list of commands on a screen of 24 lines, and the pages that show commands."""

import inspect
import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hf_sparse import __version__
from hf_sparse.cli.main import app
from tests.cli.commands import lines

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OTHERS = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))]
COMMANDS: dict[str, Callable[..., None]] = {
    info.callback.__name__.replace("_", "-"): info.callback for info in app.registered_commands
}
# The demo shows its progress by lines of its own.
SHOWS_ITSELF = {"demo"}
every = pytest.mark.parametrize("name", COMMANDS)


def screen(*words: str) -> list[str]:
    """Return what a terminal of 80 columns shows, of which typer uses 78; its runner would use 80."""
    result = CliRunner().invoke(app, [*words, "--help"], terminal_width=78)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def parse(command: str) -> None:
    """Parse a command line without running it; raise for unknown or old names of options."""
    word, name, *arguments = shlex.split(command)
    group = typer.main.get_command(app)
    if name == "--debug":
        name, *arguments = arguments
    assert word == "hf-sparse"
    if name in group.commands:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            group.commands[name].make_context(name, arguments)
    else:
        assert name in {option for parameter in group.params for option in parameter.opts}, command


def test_help_has_all_commands_on_one_screen() -> None:
    text = screen()
    assert len(text) <= 24 and max(map(len, text)) <= 80
    start = text.index("Commands:") + 1
    assert [line.split()[0] for line in text[start:]] == list(COMMANDS)
    for name, line in zip(COMMANDS, text[start:], strict=True):
        assert line.endswith(f" {COMMANDS[name].__doc__.splitlines()[0]}")
    usage = " ".join(text[: text.index("")])
    assert re.findall(r"\[(--[\w-]+)\]", usage) == ["--debug", "--version", "--install-completion"]
    assert any("Try: hf-sparse demo --output-dir my_demo" in line for line in text)


@every
def test_help_of_a_command_fits_into_80_columns_and_has_an_example(name: str) -> None:
    text = screen(name)
    assert max(map(len, text)) <= 80
    assert len(COMMANDS[name].__doc__.splitlines()[0]) <= 56
    example = re.search(r"Try: (hf-sparse .*)", inspect.cleandoc(COMMANDS[name].__doc__), re.DOTALL)[1]
    # On one line, to be copied.
    assert any(f"Try: {example}" in line for line in text)
    parse(example)


@every
def test_every_command_speaks_json(name: str) -> None:
    assert "  --json  " in "\n".join(screen(name))


@every
def test_every_command_has_plain_errors_and_shows_its_work(name: str) -> None:
    source = inspect.getsource(COMMANDS[name])
    assert "with plain_errors(context.obj)" in source
    assert "with working(" in source or name in SHOWS_ITSELF


def test_an_example_with_an_option_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option: --sparse"):
        parse("hf-sparse prune model out --sparsity 0.5 --sparse")


def test_the_version_is_that_of_the_package() -> None:
    assert lines("--version") == [f"hf-sparse {__version__}"]


def test_the_page_has_every_command_with_an_example() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| .+ \| `(hf-sparse .+)` \|$", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == list(COMMANDS)
    assert all(example.split()[1] == name for name, example in rows)


def test_what_the_pages_show_can_be_typed() -> None:
    shown = re.findall(r"`(hf-sparse -?-?\w[^`]*)`", PAGE) + re.findall(
        r"^hf-sparse [^|#\n]*", PAGE, re.MULTILINE
    )
    assert len(shown) > len(COMMANDS)
    for page in (README, *OTHERS):
        shown += re.findall(r"^(?:\$ )?(hf-sparse [^#|\n]*)", page, re.MULTILINE)
    for command in shown:
        parse(command)


def test_commands_that_the_pages_name_exist() -> None:
    for page in (README, *OTHERS):
        assert set(re.findall(r"hf-sparse (\w[\w-]*)", page)) <= set(COMMANDS)
