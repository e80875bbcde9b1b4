"""What a finished stage is worth: its results as one JSON file, with command, cost, scores, distances."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attempts import Attempts
from stages import ENCODER, Places, Stage

from hf_sparse.report.results import write_results
from hf_sparse.storage import write_atomically

# Scores that are a share of so many right answers, which is what their standard error comes from.
_SHARES = {"eval_accuracy": "eval_samples", "eval_exact_match": "eval_samples"}
_SCORES = ("eval_accuracy", "eval_f1", "eval_exact_match", "eval_loss", "perplexity")
_CURVES = ("loss", "sparsity")


def finish(stage: Stage, places: Places, results: Path, attempts: Attempts) -> dict[str, Any]:
    """Measure what is left to measure of a trained stage, and write its results; a marker beside its model.

    A stage that was only made again, because its model was gone, keeps the results that it had.
    """
    output = places.output(stage.name)
    found = json.loads((output / "all_results.json").read_text())
    state = json.loads((output / "trainer_state.json").read_text())
    row: dict[str, Any] = {
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
        distances = measure_distances(stage, places)
        row["distances"] = {layer: round(value, 4) for layer, value in distances.items()}
    path = results / f"{stage.name}.json"
    if not path.is_file():
        write_results(path, describe(stage, places, row, state["log_history"]))
    write_atomically(output / "stage.json", json.dumps(row, indent=2).encode())
    return row


def standard_errors(found: Mapping[str, float]) -> dict[str, float]:
    """Return the standard error of each score that counts right answers: sqrt(p (1 - p) / n)."""
    errors = {}
    for score, count in _SHARES.items():
        if score in found:
            share = found[score] / (100 if score == "eval_exact_match" else 1)
            error = math.sqrt(share * (1 - share) / found[count])
            errors[f"{score.removeprefix('eval_')}_error"] = (
                round(error * found[score] / share, 4) if share else 0.0
            )
    return errors


def describe(
    stage: Stage, places: Places, row: Mapping[str, Any], log: list[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the content of a results file: what was run, what it came to, how it went."""
    return {
        "name": stage.name,
        "title": f"Accuracy study: {stage.name}",
        "command": places.without_paths(
            " ".join(["python", "scripts/" + stage.command(places)[0], *stage.command(places)[1:]])
        ),
        "settings": {
            "start": stage.start,
            "teacher": stage.teacher,
            "recipe": recipe_of(places.output(stage.name)),
            "seed": stage.seed,
            "data": stage.data,
        },
        "columns": [name for name in row if name != "distances"],
        "rows": [dict(row)],
        "curve": [point(line) for line in log if "loss" in line],
    }


def point(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a log line what a curve needs: step, tokens, losses, the error of each layer."""
    kept = {"step": line["step"], "tokens": line.get("num_input_tokens_seen")}
    terms = (name for name in line if name in _CURVES or name.startswith("loss_"))
    return kept | {name: round(float(line[name]), 5) for name in terms}


def recipe_of(output: Path) -> dict[str, Any]:
    """Return the recipe that a run left in its record."""
    return json.loads((output / "hf_sparse_run.json").read_text())["recipe"]


def measure_distances(stage: Stage, places: Places) -> dict[str, float]:
    """Ask `hf-sparse evaluate-distance` how far each layer is from the encoder's."""
    given = stage.distance
    command = ["-c", "from hf_sparse.cli.main import main; main()", "evaluate-distance"]
    command += [str(places.output(stage.name))]
    command += [places.model(ENCODER), places.data(given["data"]), "--json"]
    command += ["--samples", str(given["samples"]), "--max-seq-length", str(given["max_seq_length"])]
    for column in given["columns"]:
        command += ["--text-column", column]
    # More threads would wait for each other wherever the cores are shared.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, *command], check=True, capture_output=True, text=True, env=environment
    )
    return json.loads(run.stdout)["distances"]
