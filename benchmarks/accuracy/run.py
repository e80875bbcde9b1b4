"""Run the accuracy study: the next unfinished stages of a plan, as long as there are any.

    python benchmarks/accuracy/run.py --encoder ENCODER --data DATA --work WORK

Checkpoints and models lie in WORK, results in benchmarks/results/accuracy, one file a stage. It may be killed
at any time and started again: a stage goes on from its last checkpoint. Where WORK is new, models that later
stages need are made again. `--list` shows the plan.

A stage may be run on another machine. `--needs STAGE` prints the files in WORK that it starts from, for
`rsync --files-from`; there, `--only STAGE` runs it; `--made STAGE` prints what to bring back.
"""

import argparse
import fcntl
import signal
import sys
import time
from pathlib import Path

from attempts import Attempts, Process
from outcome import finish
from rich.console import Console
from rich.table import Table
from stages import Places, Stage, read_finished, read_plan, to_make

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "accuracy"
SCRIPTS = HERE.parents[1] / "scripts"
_LOOK_EVERY = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, help_ in {
        "encoder": "directory or Hub name of the dense encoder",
        "data": "directory with a folder of data files for each task and text",
        "work": "directory for checkpoints and models",
    }.items():
        parser.add_argument(f"--{name}", required=True, help=help_)
    parser.add_argument("--plan", type=Path, default=HERE / "plan.yaml")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=2, help="stages at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--nice", type=int, default=19, help="priority, of the process and of its session")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone, and what they need")
    parser.add_argument("--needs", metavar="STAGE", help="print the files in WORK that a stage starts from")
    parser.add_argument("--made", metavar="STAGE", help="print the files in WORK that a stage has made")
    parser.add_argument("--list", action="store_true", help="show the plan and what is measured; run nothing")
    options = parser.parse_args()
    places = Places(options.encoder, Path(options.data).resolve(), Path(options.work).resolve())
    stages = read_plan(options.plan)
    named = [*(options.only or ()), *filter(None, (options.needs, options.made))]
    if unknown := set(named) - stages.keys():
        raise SystemExit(f"the plan has no stage {sorted(unknown)[0]}; it has {', '.join(stages)}")
    if options.list:
        Console().print(overview(stages, places, options.results))
        return
    if options.needs or options.made:
        names = stages[options.needs].needs if options.needs else [options.made]
        print("\n".join(file for name in names for file in places.files(name)))
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
        sys.exit(run(stages, places, options))


def run(stages: dict[str, Stage], places: Places, options: argparse.Namespace) -> int:
    """Run what is left, `--jobs` stages at a time, but for what needs a failed one; return the exit code."""
    failed: set[str] = set()
    running: dict[str, Process] = {}
    try:
        while True:
            for name in [name for name in running if (running[name].poll()) is not None]:
                process = running.pop(name)
                if process.process.returncode:
                    failed.add(name)
                    code = process.process.returncode
                    say(f"{name} failed with exit code {code}; see {name}.log in {places.work}")
                else:
                    row = finish(stages[name], places, options.results, process.attempts)
                    say(f"{name} is done: {summary(row)}")
            left = [
                name for name in to_make(stages, places, options.results, options.only) if name not in failed
            ]
            for name in left:
                ready = all(places.stands(need) for need in stages[name].needs)
                if ready and name not in running and len(running) < options.jobs:
                    say(f"{name} begins, after {len(Attempts(attempts_of(name, places)).all)} attempts")
                    running[name] = start(stages[name], places, options)
            if not running:
                for name in left:
                    say(f"{name} waits for a stage that failed")
                return 1 if failed else 0
            time.sleep(_LOOK_EVERY)
    finally:
        for process in running.values():
            process.end()


def start(stage: Stage, places: Places, options: argparse.Namespace) -> Process:
    script, *words = stage.command(places)
    log, attempts = places.work / f"{stage.name}.log", Attempts(attempts_of(stage.name, places))
    return Process([str(SCRIPTS / script), *words], log, attempts, options.threads, options.nice)


def attempts_of(name: str, places: Places) -> Path:
    return places.work / f"{name}.attempts.json"


def overview(stages: dict[str, Stage], places: Places, results: Path) -> Table:
    """Return the plan as a table: what is measured, what is still to be run."""
    table = Table(
        "stage", "from", "teacher", "recipe", "tokens", "cpu min", "score", "here", title="Accuracy study"
    )
    finished = read_finished(results)
    for name, stage in stages.items():
        row = finished[name]["rows"][0] if name in finished else {}
        minutes = f"{row['cpu_seconds'] / 60:.1f}" if row else ""
        score = next((f"{row[key]:.4f}" for key in ("accuracy", "f1") if key in row), "done" if row else "")
        tokens = f"{row['tokens']:,}" if row else ""
        here = "yes" if places.stands(name) else ""
        table.add_row(
            name, stage.start, stage.teacher or "", stage.recipe or "", tokens, minutes, score, here
        )
    return table


def summary(row: dict[str, object]) -> str:
    shown = ("tokens", "cpu_seconds", "sparsity", "accuracy", "f1", "distances")
    return ", ".join(f"{name} {row[name]}" for name in shown if name in row)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main()
