"""The results of a finished stage as one JSON file, with command, cost, scores and distances."""

import hashlib
import json
import math
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attempts import Attempts
from stages import ENCODER, Places, Stage

from hf_sparse.atomic.files import write_atomically
from hf_sparse.runs.results import write_results

_SCORES = ("eval_accuracy", "eval_f1", "eval_exact_match", "eval_loss", "perplexity")
_CURVES = ("loss", "sparsity")
_COMMAND = ("-c", "from hf_sparse.cli.main import main; main()")

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def is_trained(output: Path) -> bool:
    """Return whether a directory holds all that a stage leaves: a model, its record, its scores, whole.

    The process that trained may have been killed at any moment, and its files copied in part.
    """
    weights = any(output.glob("model*.safetensors"))
    names = ("hf_sparse_run.json", "trainer_state.json", "eval_results.json", "all_results.json")
    try:
        *_, evaluated, everything = (json.loads((output / name).read_text()) for name in names)
    except (OSError, ValueError):
        return False
    return weights and evaluated.items() <= everything.items()


def finish(stage: Stage, places: Places, results: Path, attempts: Attempts, run: Run) -> dict[str, Any]:
    """Measure what is left to measure of a trained stage; write its results beside its model, and publish.

    A stage that was only made again, because its model was gone, keeps the results that are published. One
    that was finished on another machine brings its own along. `run` starts Python with arguments.
    """
    ending = places.ending(stage.name)
    content = json.loads(ending.read_text()) if ending.is_file() else {}
    if "rows" not in content:
        content = write_results(ending, measure(stage, places, attempts, run))
    published = results / f"{stage.name}.json"
    if not published.is_file():
        write_atomically(published, ending.read_bytes())
    return content["rows"][0]


def measure(stage: Stage, places: Places, attempts: Attempts, run: Run) -> dict[str, Any]:
    """Return the content of a results file: command, results, course of the run."""
    output = places.output(stage.name)
    found = json.loads((output / "all_results.json").read_text())
    state = json.loads((output / "trainer_state.json").read_text())
    record = json.loads((output / "hf_sparse_run.json").read_text())
    row = {
        "stage": stage.name,
        "group": stage.group,
        "steps": state["global_step"],
        "tokens": state["num_input_tokens_seen"],
        **attempts.cost,
        "attempts": len(attempts.all),
        "sparsity": round(found.get("sparsity", 0.0), 4),
        **{name.removeprefix("eval_"): round(found[name], 4) for name in _SCORES if name in found},
        **standard_errors(found),
    }
    if stage.distance is not None:
        row["distances"] = measure_distances(stage, places, run)
    named = Places(ENCODER, Path("DATA"), Path("WORK"))
    return {
        "name": stage.name,
        "title": f"Accuracy study: {stage.name}",
        "command": shlex.join(["python", *stage.command(named, Path("scripts"))]),
        "settings": {
            "start": stage.start,
            "teacher": stage.teacher,
            "recipe": record["recipe"],
            "seed": stage.seed,
            "data": stage.data,
            "encoder": name_of(places.encoder),
        },
        "columns": [name for name in row if name != "distances"],
        "rows": [row],
        "curve": [point(line) for line in state["log_history"] if "loss" in line],
    }


def standard_errors(found: Mapping[str, float]) -> dict[str, float]:
    """Return the standard error of each score that counts right answers: sqrt(p (1 - p) / n).

    Answers to questions are scored in percent. Their F1 is a mean of values between 0 and 1, which spread the
    most where all are 0 or 1: its error is at most the one given.
    """
    asked = "eval_exact_match" in found
    names, whole = (("eval_exact_match", "eval_f1"), 100) if asked else (("eval_accuracy",), 1)
    errors = {}
    for name in names:
        if name in found:
            share = found[name] / whole
            error = whole * math.sqrt(share * (1 - share) / found["eval_samples"])
            errors[f"{name.removeprefix('eval_')}_error"] = round(error, 4)
    return errors


def point(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a log line that a curve needs: step, tokens, losses, the error of each layer."""
    kept = {"step": line["step"], "tokens": line.get("num_input_tokens_seen")}
    terms = (name for name in line if name in _CURVES or name.startswith("loss_"))
    return kept | {name: round(float(line[name]), 5) for name in terms}


def name_of(encoder: str) -> str:
    """Return a name of the encoder that holds elsewhere: that on the Hub, or the hash of its weights."""
    directory = Path(encoder)
    weights = directory / "model.safetensors"
    if not weights.is_file():
        return directory.name if directory.is_dir() else encoder
    with weights.open("rb") as file:
        return f"model.safetensors with sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def measure_distances(stage: Stage, places: Places, run: Run) -> dict[str, float]:
    """Return the distance of each layer from the encoder's, by `hf-sparse evaluate-distance`."""
    given = stage.distance
    command = [*_COMMAND, "evaluate-distance", str(places.output(stage.name)), places.model(ENCODER)]
    command += [places.data(given["data"]), "--json"]
    command += ["--samples", str(given["samples"]), "--max-seq-length", str(given["max_seq_length"])]
    for column in given["columns"]:
        command += ["--text-column", column]
    done = run(command)
    if done.returncode:
        raise RuntimeError(f"evaluate-distance ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    return {layer: round(value, 4) for layer, value in json.loads(done.stdout)["distances"].items()}


def add_sizes(stage: Stage, places: Places, results: Path, run: Run) -> bool:
    """Add the bytes of the encoder, packed and dense in float32, to the published results of a task.

    Returns whether they were added: the model lies here, and they were missing.
    """
    published = results / f"{stage.name}.json"
    if not published.is_file() or not places.stands(stage.name):
        return False
    content = json.loads(published.read_text(encoding="utf-8"))
    (row,) = content["rows"]
    if "encoder_bytes" in row or not {"accuracy_error", "f1_error"} & row.keys():
        return False
    with tempfile.TemporaryDirectory() as home:
        packed = str(Path(home) / "packed")
        done = run(
            [*_COMMAND, "pack", str(places.output(stage.name)), packed, "--format", "packed", "--json"]
        )
    if done.returncode:
        raise RuntimeError(f"pack ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    sizes = json.loads(done.stdout)["sizes"]
    row["encoder_bytes"] = sizes["encoder_bytes"] + sizes["scale_bytes"]
    row["encoder_dense_bytes"] = sizes["encoder_dense_bytes"]
    content["columns"] = [name for name in row if name != "distances"]
    write_atomically(published, json.dumps(content, indent=2).encode() + b"\n")
    return True
