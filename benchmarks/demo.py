"""The results of the demo: run `hf-sparse demo`, unless its directory is complete, and keep its table."""

import argparse
import json
from pathlib import Path

from rich.console import Console

from hf_sparse.demo.run import run_demo
from hf_sparse.demo.settings import DemoSettings
from measuring import write_results

NAMES = {
    "teacher": "teacher, dense",
    "pruned": "student, pruned once",
    "task-dense": "fine-tuned dense",
    "task-transfer": "pruned once, transferred",
    "task-gmp": "pruned while fine-tuning",
    "task-int8": "pruned once, in 8 bits",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("hf_sparse_demo"))
    home = parser.parse_args().output_dir
    if not (home / "results.json").exists():
        run_demo(DemoSettings(output_dir=home), Console())
    found = json.loads((home / "results.json").read_text(encoding="utf-8"))
    rows = [
        {
            "stage": NAMES[stage["name"]],
            "measured on": "masked words" if stage["name"] in ("teacher", "pruned") else "the task",
            "accuracy": round(stage["accuracy"], 4),
            "sparsity": round(stage["sparsity"], 4),
            "file MB": round(stage["bytes"] / 1e6, 2),
            "steps": stage["training"]["steps"],
            "seconds": round(stage["seconds"]),
        }
        for stage in found["stages"]
    ]
    (sizes,) = (stage["sizes"] for stage in found["stages"] if stage["name"] == "task-int8")
    settings = {
        "seed": found["settings"]["seed"],
        "classes": len(found["data"]["classes"]),
        "most frequent class": round(found["data"]["majority_accuracy"], 4),
        "times smaller in 8 bits": round(sizes["ratio"], 1),
        "its encoder alone": round(sizes["encoder_ratio"], 1),
        "seconds in all": found["seconds"],
    }
    print(write_results("demo", "The main job", rows, settings, list(rows[0]), "hf-sparse demo"))


if __name__ == "__main__":
    main()
