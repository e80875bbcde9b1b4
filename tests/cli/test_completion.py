"""Completion, requested by environment variables as a shell does."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from hf_sparse.checkpoint.formats import FORMATS
from hf_sparse.cli import completion
from hf_sparse.cli.main import app
from hf_sparse.export.directory import KINDS
from hf_sparse.oneshot.prune_with_data import DATA_METHODS
from hf_sparse.quantization.activations import OBSERVERS
from hf_sparse.quantization.fake_layers import ACTIVATIONS
from hf_sparse.quantization.weights import read_weight_scheme
from hf_sparse.recipe.recipe import preset_names
from hf_sparse.sparsity.patterns.parse import parse_pattern

ASKED = "_HF_SPARSE_COMPLETE"
COMMANDS = [info.callback.__name__.replace("_", "-") for info in app.registered_commands]


def completed(line: str, shell: str = "bash") -> list[str]:
    """Return what a shell would offer at the end of a line."""
    words = line.split(" ")
    place = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_ARGS": line}
    place["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    result = CliRunner().invoke(app, [], prog_name="hf-sparse", env={ASKED: f"complete_{shell}", **place})
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hf-sparse ", COMMANDS),
        ("hf-sparse p", [name for name in COMMANDS if name.startswith("p")]),
        ("hf-sparse --v", ["--version"]),
        ("hf-sparse plan ", preset_names()),
        ("hf-sparse plan transfer_", ["transfer_int4", "transfer_int8"]),
        # The shell goes on with files.
        ("hf-sparse plan my_recipe", []),
        ("hf-sparse --debug plan gmp_s", ["gmp_star"]),
        ("hf-sparse plan gmp_star --grad", ["--gradient-accumulation-steps"]),
        ("hf-sparse pack model out --format ", list(FORMATS)),
        ("hf-sparse export model out --format ", list(KINDS)),
        ("hf-sparse prune model out --method w", ["wanda"]),
        ("hf-sparse prune model out --pattern 4x", ["4x1", "4x4"]),
        ("hf-sparse quantize model out --weights int4", ["int4_per_channel", "int4_group_32"]),
        ("hf-sparse quantize model out --observer per", ["percentile"]),
        ("hf-sparse quantize model out --activations n", ["none"]),
    ],
)
def test_bash_completes(line: str, expected: list[str]) -> None:
    assert completed(line) == expected


@pytest.mark.parametrize(("shell", "mark"), [("zsh", '"{}"'), ("fish", "{}")])
def test_other_shells_complete_presets(shell: str, mark: str) -> None:
    found = "\n".join(completed("hf-sparse plan transfer_", shell))
    assert all(mark.format(name) in found for name in ("transfer_int4", "transfer_int8"))


def test_what_is_completed_is_what_there_is() -> None:
    assert completion.FORMATS == FORMATS
    assert set(KINDS) == set(completion.EXPORTS)
    assert set(completion.METHODS) == {"magnitude", *DATA_METHODS}
    assert set(completion.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(completion.OBSERVERS) == set(OBSERVERS)
    assert [str(read_weight_scheme(name)) for name in completion.WEIGHTS] == list(completion.WEIGHTS)
    assert all(parse_pattern(name) for name in completion.PATTERNS)
    assert completion.presets() == preset_names()


def test_completing_imports_nothing_heavy() -> None:
    program = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
sys.argv = ["hf-sparse"]
from hf_sparse.cli.main import main
main()
"""
    line = "hf-sparse plan prune_ofa_9"
    asked = {ASKED: "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "2"}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | asked
    )
    assert found.stdout.split() == ["prune_ofa_90"]
    heavy = {"torch", "transformers", "datasets", "numpy", "yaml", "huggingface_hub", "matplotlib"}
    assert heavy & {name.split(".")[0] for name in found.stderr.split()} == set()


def test_there_is_a_script_for_the_shell_to_load() -> None:
    env = {ASKED: "source_zsh"}
    script = CliRunner().invoke(app, [], prog_name="hf-sparse", env=env).stdout
    assert "#compdef hf-sparse" in script and f"{ASKED}=complete_zsh" in script
