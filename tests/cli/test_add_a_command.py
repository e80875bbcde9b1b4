"""Adding a command takes one file and one word: shown by doing it in a copy of the package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "hf_sparse"
COMMAND = '''"""`hf-sparse count-layers`."""

import json

import typer

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Json, Model, Variant, chosen_weights


def count_layers(
    context: typer.Context, model: Model, variant: Variant = None, as_json: Json = False
) -> None:
    """Count the prunable layers of a model.

    Try: hf-sparse count-layers my_model
    """
    with plain_errors(context.obj), chosen_weights(model, variant) as model:
        from pathlib import Path

        if not Path(model).is_dir():
            raise ValueError(f"{model} is not a directory; name one")
        typer.echo(json.dumps({"layers": 2}) if as_json else "2 layers")
'''


def test_a_command_takes_one_file_and_one_word(tmp_path: Path) -> None:
    copy = tmp_path / "hf_sparse"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "cli" / "count_layers.py").write_text(COMMAND)
    main = copy / "cli" / "main.py"
    main.write_text(main.read_text().replace('    "rescue",\n', '    "rescue",\n    "count_layers",\n'))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hf_sparse", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path), "PATH": "", "HOME": str(tmp_path)},
        )

    listed = run("--help").stdout
    assert "  count-layers       Count the prunable layers of a model.\n" in listed
    # There is room for one more.
    assert len(listed.splitlines()) < 24
    assert "--variant NAME" in run("count-layers", "--help").stdout
    assert json.loads(run("count-layers", str(tmp_path), "--json").stdout) == {"layers": 2}
    refused = run("count-layers", "nowhere")
    assert refused.returncode == 1 and refused.stderr == ("hf-sparse: nowhere is not a directory; name one\n")
