"""Stages that take no time: what a script leaves of one that was trained, results as they are published."""

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

# Tests need not wait for others; only root may be given more than it has.
PRIORITY = 0 if os.geteuid() == 0 else os.nice(0)
SCORES = {"eval_accuracy": 0.75, "eval_samples": 100, "sparsity": 0.5}
LOSS = {"step": 100, "loss": 0.25, "num_input_tokens_seen": 1000}

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from fakes import leave_trained
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "--fail" in words:
    sys.exit(int(words["--fail"]))
leave_trained(Path(words["--output_dir"]))
"""


def leave_trained(output: Path, scores: dict[str, float] = SCORES, loss: dict[str, float] = LOSS) -> None:
    """Leave in a directory what a script does."""
    output.mkdir(parents=True, exist_ok=True)
    state = {"global_step": 200, "num_input_tokens_seen": 2000, "log_history": [loss]}
    contents = {
        "config.json": {},
        "trainer_state.json": state,
        "hf_sparse_run.json": {"recipe": {"sparsity": {"method": "lock"}}},
        "eval_results.json": scores,
        "all_results.json": {**scores, "train_loss": 0.1},
    }
    for name, content in contents.items():
        (output / name).write_text(json.dumps(content))
    (output / "model.safetensors").write_bytes(b"weights")
    (output / "training_args.bin").write_bytes(b"pickle")


def write_script(folder: Path) -> None:
    (folder / "fake.py").write_text(SCRIPT.format(here=str(Path(__file__).parent)))


def write_plan(path: Path, **stages: dict[str, Any]) -> Path:
    """Write a plan of stages of that script."""
    common = {"script": "fake", "start": "ENCODER", "data": "sst2"}
    path.write_text(json.dumps({"stages": {name: common | values for name, values in stages.items()}}))
    return path


def options(tmp_path: Path, **changes: Any) -> Namespace:
    given = {"results": tmp_path / "results", "only": None, "jobs": 2, "threads": 1, "nice": PRIORITY}
    return Namespace(**(given | changes))


def published(folder: Path, name: str, group: str, start: str, data: str, bits: int = 32, **row: Any) -> None:
    """Publish results of a stage."""
    folder.mkdir(exist_ok=True)
    seed = row.pop("seed", 42)
    given = {"recipe": row.pop("recipe", "transfer"), "learning_rate": row.pop("rate", 1e-4)}
    words = " ".join(f"--{name} {value}" for name, value in given.items())
    values = {"stage": name, "group": group, "cpu_seconds": 90.0, "sparsity": 0.9, "tokens": 1000} | row
    content = {
        "command": f"python scripts/run.py {words}",
        "settings": {
            "start": start,
            "data": data,
            "recipe": {} if bits == 32 else {"quantization": {"weights": f"int{bits}"}},
            "seed": seed,
            "encoder": "a name",
        },
        "rows": [values],
        "date": "2026-01-01T00:00:00+00:00",
        "hardware": {"processor": "a processor"},
        "versions": {"torch": "2"},
    }
    (folder / f"{name}.json").write_text(json.dumps(content))
