"""Exit codes and messages of `hf-sparse`: errors, interrupts, readers that close the output."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors import SafetensorError

from hf_sparse.cli.errors import FAILED, INTERRUPTED, WANTING
from tests.cli.commands import refused, run
from tests.support.tiny import bert

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
Fails = Callable[[Exception], None]
FAULT = "this is a fault of hf_sparse, report it with what hf-sparse --debug shows"


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Make `hf-sparse inspect` fail while it loads a model."""

    def fail(error: Exception) -> None:
        def load(name: str) -> None:
            raise error

        monkeypatch.setattr("hf_sparse.checkpoint.load.load_model", load)

    return fail


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a rule; a way out"), "a rule; a way out"),
        (OSError("what happened\nand much more"), "what happened (more with hf-sparse --debug)"),
        (OSError(), "OSError"),
        (MemoryError(), "MemoryError"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "DefaultCPUAllocator: can't allocate memory",
        ),
        (SafetensorError("header too small"), "SafetensorError: header too small"),
        (ModuleNotFoundError("No module named 'scipy'", name="scipy"), "No module named 'scipy'"),
    ],
)
def test_errors_of_data_and_machine_are_one_sentence(fails: Fails, error: Exception, said: str) -> None:
    fails(error)
    assert refused("inspect", "model") == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("layer"), "KeyError: 'layer'"),
        (TypeError("unhashable\ntype"), "TypeError: unhashable"),
        (
            RuntimeError("mat1 and mat2 cannot be multiplied"),
            "RuntimeError: mat1 and mat2 cannot be multiplied",
        ),
        (AssertionError(), "AssertionError"),
        (ImportError("cannot import", name="hf_sparse.targets"), "ImportError: cannot import"),
    ],
)
def test_a_fault_says_that_it_is_one(fails: Fails, error: Exception, said: str) -> None:
    fails(error)
    assert refused("inspect", "model", "--json") == f"{said}; {FAULT}"


def test_an_answer_of_the_hub_is_its_reason(fails: Fails) -> None:
    said = "404 Client Error. (Request ID: 1)\n\nRepository Not Found for url: https://hub/a/b.\nMake sure"
    answer = SimpleNamespace(headers={}, request=None)
    fails(RepositoryNotFoundError(said, response=answer, server_message="It is gone\nfor good"))
    expected = "RepositoryNotFoundError: Repository Not Found for url: https://hub/a/b: It is gone"
    assert refused("inspect", "model") == f"{expected} (more with hf-sparse --debug)"


def test_what_the_package_raises_itself_is_no_fault(tmp_path: Path) -> None:
    model = bert()
    torch.nn.init.constant_(model.bert.encoder.layer[0].output.dense.weight, float("nan"))
    model.save_pretrained(tmp_path / "model")
    said = refused("prune", tmp_path / "model", tmp_path / "out", "--sparsity", 0.5)
    assert "weights to be pruned are not numbers" in said and FAULT not in said


@pytest.mark.parametrize("words", [["--debug", "inspect", "model"], ["inspect", "model", "--debug"]])
def test_debug_shows_the_error_itself_wherever_it_stands(fails: Fails, words: list[str]) -> None:
    error = KeyError("layer")
    fails(error)
    assert run(*words).exception is error


def test_after_two_dashes_debug_is_a_name() -> None:
    assert "--debug" in refused("inspect", "--", "--debug")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inspec"], "Did you mean"),
        (["history"], "No such command 'history'"),
        (["inspect", "model", "--jsno"], "No such option: --jsno"),
        (["inspect"], "Missing argument"),
        (["benchmark", "model", "--batch-size", "0"], "Invalid value for '--batch-size'"),
    ],
)
def test_a_wrong_command_line_ends_with_2(words: list[str], said: str) -> None:
    result = run(*words)
    assert result.exit_code == 2 and result.stdout == ""
    assert said in result.stderr and "Traceback" not in result.stderr


def test_an_interrupt_ends_with_130_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        # A process that was started in the background ignores the signal itself.
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_sparse.checkpoint.load.load_model", interrupted)
    for words in (["inspect", "model"], ["--debug", "inspect", "model", "--json"]):
        result = run(*words)
        assert result.exit_code == 130 and result.stdout == ""
        said = "hf-sparse: interrupted; nothing is left half written, run the same command again\n"
        assert result.stderr == said


@pytest.mark.parametrize("how", ["typer.echo", "Console().print"])
def test_nothing_is_said_where_the_reader_has_gone(how: str) -> None:
    program = f"""
import typer
from rich.console import Console
from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.main import app, main

@app.command()
def talk(context: typer.Context):
    with plain_errors(context.obj):
        while True:
            {how}("word " * 15)

main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, "talk"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.read(5)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize(
    ("output", "said"), [("/dev/full", "No space left on device"), ("&-", "standard output is closed")]
)
def test_help_that_cannot_be_written_is_a_failure_in_one_sentence(output: str, said: str) -> None:
    program = "from hf_sparse.cli.main import main; main()"
    command = ["sh", "-c", f'"$0" -c "{program}" --help >{output}', sys.executable]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == FAILED and len(done.stderr.splitlines()) == 1 and said in done.stderr


def test_the_page_says_what_the_codes_mean() -> None:
    for code in (0, FAILED, 2, WANTING, INTERRUPTED):
        assert f"\n| {code} | " in PAGE
