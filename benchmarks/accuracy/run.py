"""Run the accuracy study: the next unfinished stages of a plan, as long as there are any.

    python benchmarks/accuracy/run.py --encoder ENCODER --data DATA

Checkpoints and models lie in WORK, by default runs/accuracy, which git ignores; results, one file a stage, in
benchmarks/results/accuracy, to be committed as they come. It may be killed at any time and started again: a
stage goes on from its last checkpoint. Where WORK is new, models that later stages need are made again, and
results that are there stay. `--list` shows the plan. `--sizes` packs the models that lie in WORK and adds the
bytes of their encoders to the results; it may run beside another runner.

A stage may be run on another machine that has this repository, the encoder and the stage's folder of DATA.
`--needs STAGE` prints which files in WORK it starts from, for `rsync --files-from`; there, `--only STAGE`
runs it, and `--made STAGE` prints what to bring back to WORK. The next run here publishes its results.
"""

import argparse
import fcntl
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from attempts import ROOT, Attempts, Process, launch
from outcome import Run, add_sizes, finish, is_trained
from rich.console import Console
from rich.table import Table
from stages import Places, Stage, read_finished, read_plan, to_make

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "accuracy"
SCRIPTS = ROOT / "scripts"
_LOOK_EVERY = 2.0


def main() -> None:
    options = read_options()
    # Processes are started in the root of the repository.
    encoder = Path(options.encoder)
    places = Places(
        str(encoder.resolve()) if encoder.is_dir() else options.encoder,
        options.data.resolve(),
        options.work.resolve(),
    )
    stages = read_plan(options.plan)
    named = [*(options.only or ()), *filter(None, (options.needs, options.made))]
    if unknown := set(named) - stages.keys():
        raise SystemExit(f"stage {sorted(unknown)[0]} is not in the plan, which has {', '.join(stages)}")
    if options.list:
        Console(width=None if sys.stdout.isatty() else 140).print(overview(stages, places, options.results))
        return
    if options.needs or options.made:
        try:
            names = stages[options.needs].needs if options.needs else [options.made]
            for file in [file for name in names for file in places.files(name)]:
                print(file)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        return
    if options.sizes:
        for name in options.only or stages:
            if add_sizes(stages[name], places, options.results, starter(places, options)):
                say(f"{name} has its size now")
        return
    places.work.mkdir(parents=True, exist_ok=True)
    with (places.work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(
                f"another runner works in {places.work}; wait for it, or choose another --work"
            ) from None
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        for name in stages:
            if places.attempts(name).is_file():
                Attempts(places.attempts(name)).end_orphans()
        sys.exit(run(stages, places, options))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", required=True, help="directory or Hub name of the dense encoder")
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        help="directory with a folder of data files for each task and text",
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "accuracy", help="directory for checkpoints and models"
    )
    parser.add_argument("--plan", type=Path, default=HERE / "plan.yaml")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=2, help="stages at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--nice", type=int, default=19, help="priority, of the process and of its session")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="STAGE",
        help="these stages alone, where they lack results, and their needs",
    )
    parser.add_argument("--needs", metavar="STAGE", help="print the files in WORK that a stage starts from")
    parser.add_argument("--made", metavar="STAGE", help="print the files in WORK that a stage has made")
    parser.add_argument("--list", action="store_true", help="show the plan and what is measured; run nothing")
    parser.add_argument("--sizes", action="store_true", help="add the bytes of encoders; run nothing")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs counts stages from 1, got {options.jobs}")
    return options


def run(stages: dict[str, Stage], places: Places, options: argparse.Namespace) -> int:
    """Run what is left, `--jobs` stages at a time, but for what needs a failed one; return the exit code."""
    failed: set[str] = set()
    running: dict[str, Process] = {}
    try:
        while True:
            for name in [name for name in running if running[name].poll() is not None]:
                code = running.pop(name).process.returncode
                if code:
                    say(f"{name} failed with exit code {code}; see {name}.log in {places.work}")
                if code or not settle(stages[name], places, options):
                    failed.add(name)
            left = [
                name for name in to_make(stages, places, options.results, options.only) if name not in failed
            ]
            next_ones = [
                name
                for name in left
                if name not in running and all(places.stands(need) for need in stages[name].needs)
            ]
            for name in next_ones[: options.jobs - len(running)]:
                if not is_done(name, places):
                    running[name] = start(stages[name], places, options)
                elif not settle(stages[name], places, options):
                    failed.add(name)
            if not running and not next_ones:
                for name in left:
                    say(f"{name} waits for a stage that failed")
                return 1 if failed else 0
            time.sleep(_LOOK_EVERY)
    finally:
        for process in running.values():
            process.end()


def is_done(name: str, places: Places) -> bool:
    """Return whether only results are left to be written, as when a runner was killed after a stage ended."""
    return places.stands(name) or is_trained(places.output(name))


def start(stage: Stage, places: Places, options: argparse.Namespace) -> Process:
    attempts = Attempts(places.attempts(stage.name))
    say(f"{stage.name} begins, after {len(attempts.all)} attempts")
    if aside := set_aside(places.output(stage.name)):
        say(f"{stage.name} had a model in part, without a checkpoint to go on from; it lies in {aside} now")
    log = places.work / f"{stage.name}.log"
    return Process(stage.command(places, SCRIPTS), log, attempts, options.threads, options.nice)


def set_aside(output: Path) -> Path | None:
    """Move a directory away that the scripts would refuse: it holds a model, and nothing to resume from."""
    if not (output / "config.json").exists() or any(output.glob("checkpoint-*")):
        return None
    number = 1
    while (aside := output.with_name(f"{output.name}.aside-{number}")).exists():
        number += 1
    return output.rename(aside)


def settle(stage: Stage, places: Places, options: argparse.Namespace) -> bool:
    """Write the results of a trained stage; say whether that went well, since others can go on anyhow."""
    attempts = Attempts(places.attempts(stage.name))
    try:
        row = finish(stage, places, options.results, attempts, starter(places, options))
    except Exception:
        say(f"{stage.name} is trained, but its results could not be written:\n{traceback.format_exc()}")
        return False
    say(f"{stage.name} is done: {summary(row)}")
    return True


def starter(places: Places, options: argparse.Namespace) -> Run:
    """Return what starts Python with arguments and waits for its output."""

    def python(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = launch(command, options.threads, options.nice, places.work, **pipes)
        output, errors = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    return python


def overview(stages: dict[str, Stage], places: Places, results: Path) -> Table:
    """Return the plan as a table: stages with results, stages to run, stages whose models lie here."""
    table = Table(title="Accuracy study")
    for name in ("stage", "from", "tokens", "cpu min", "score", "here"):
        table.add_column(name, no_wrap=True)
    finished = read_finished(results)
    for name, stage in stages.items():
        row = finished[name]["rows"][0] if name in finished else {}
        minutes = f"{row['cpu_seconds'] / 60:.1f}" if row else ""
        score = next((f"{row[key]:.4f}" for key in ("accuracy", "f1") if key in row), "done" if row else "")
        tokens = f"{row['tokens'] / 1e6:.2f} M" if row else ""
        table.add_row(name, stage.start, tokens, minutes, score, "yes" if places.stands(name) else "")
    return table


def summary(row: dict[str, object]) -> str:
    shown = ("tokens", "cpu_seconds", "sparsity", "accuracy", "f1", "distances")
    return ", ".join(f"{name} {row[name]}" for name in shown if name in row)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main()
