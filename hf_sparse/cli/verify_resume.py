"""`hf-sparse verify-resume`."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hf_sparse.cli.completion import presets
from hf_sparse.cli.errors import WANTING, plain_errors
from hf_sparse.cli.options import Json, TextColumn
from hf_sparse.cli.progress import working

if TYPE_CHECKING:
    from hf_sparse.crash_test.verify import Death, Verification


def verify_resume(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Argument(autocompletion=presets, help="Recipe: name of a preset, or YAML file.")
    ],
    recipe_override: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Changes to the recipe, such as sparsity.schedule.final=0.8. May be repeated.",
        ),
    ] = None,
    kills: Annotated[int, typer.Option(min=1, help="How often the run is killed.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    max_steps: Annotated[int, typer.Option(min=2, help="Optimizer steps of the run.")] = 24,
    processes: Annotated[
        int, typer.Option(min=1, help="Number of processes that share the dataset, as under torchrun.")
    ] = 1,
    model_name_or_path: Annotated[
        str | None,
        typer.Option(help="Model to train: Hub name or directory. By default a new tiny BERT."),
    ] = None,
    teacher_name_or_path: Annotated[
        str | None,
        typer.Option(
            help="Model to distill from: Hub name or directory. By default a copy of the model to train."
        ),
    ] = None,
    dataset_name: Annotated[
        str | None,
        typer.Option(help="Dataset: Hub name, directory or file of texts. By default random tokens."),
    ] = None,
    text_column: TextColumn = None,
    as_json: Json = False,
) -> None:
    """Check that a killed run resumes and ends as if unkilled.

    A model is trained straight through, and again in processes that are killed at random moments (in a step,
    in a mask update, while a checkpoint is written) and resumed. After every step weights, masks, optimizer,
    learning rate, random states and log are compared, bit for bit, on this machine's processors.

    The exit code is 3 if both runs differ, or if a checkpoint was not whole.

    Try: hf-sparse verify-resume prune_ofa_90 --kills 3
    """
    with plain_errors(context.obj):
        with working("Loading"):
            from hf_sparse.crash_test.job import Job
            from hf_sparse.crash_test.moments import check_kills
            from hf_sparse.crash_test.verify import verify_resume as verify
            from hf_sparse.training.arguments import SparseArguments

            check_kills(kills, max_steps)
            chosen = SparseArguments(recipe=recipe, recipe_override=recipe_override or []).build_recipe()
            job = Job(
                chosen.to_dict(),
                max_steps=max_steps,
                seed=seed,
                model=model_name_or_path,
                teacher=teacher_name_or_path,
                dataset=dataset_name,
                text_columns=tuple(text_column or ()),
                processes=processes,
            )
        console = Console(stderr=as_json, highlight=False)
        shown = console if console.is_terminal or not as_json else None
        if shown is not None:
            shown.print(f"{max_steps:,} steps, seed {seed}: straight through, then with {kills} kills.")

        def heard(death: "Death") -> None:
            if shown is not None:
                shown.print(_line(death, processes), soft_wrap=True, markup=False)

        with working("Training"), _cleaned_up(), TemporaryDirectory(prefix="hf_sparse_") as home:
            found = verify(job, Path(home), kills, seed, heard=heard)
        if as_json:
            typer.echo(json.dumps(_as_dict(found)))
        else:
            for sentence in _verdict(found):
                console.print(sentence, soft_wrap=True, markup=False)
    if not found.passed:
        raise typer.Exit(WANTING)


@contextmanager
def _cleaned_up() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that processes are stopped and files are removed."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _line(death: "Death", processes: int) -> str:
    moment = death.kill.moment
    who = (
        ""
        if processes == 1
        else ", all processes"
        if death.kill.everybody
        else f", process {death.kill.rank}"
    )
    return (
        f"Killed in step {moment.step} ({moment.where}{who}), inside {death.inside}; "
        f"newest checkpoint: step {death.checkpoint}."
    )


def _verdict(found: "Verification") -> list[str]:
    from hf_sparse.crash_test.snapshot import KINDS

    times = f"{found.seconds_straight:.1f} s straight, {found.seconds_killed:.1f} s with kills"
    sentences = [f"Not whole: {fault}." for fault in found.faults]
    if found.difference is not None:
        where = "After the end" if found.step is None else f"Step {found.step}"
        where += f", resumed from step {found.resumed_from}"
        process = "" if found.job.processes == 1 else f", process {found.rank}"
        sentences.append(
            f"{where}{process}, the first difference: {found.difference}. "
            f"{found.difference.others} more values differ there."
        )
    elif not found.faults:
        sentences.append(f"Equal, bit for bit, in {found.compared} states: {', '.join(KINDS)}. {times}.")
    return sentences


def _as_dict(found: "Verification") -> dict[str, Any]:
    return {
        "passed": found.passed,
        "steps": found.job.max_steps,
        "seed": found.seed,
        "processes": found.job.processes,
        "kills": [
            {
                "step": death.kill.moment.step,
                "where": death.kill.moment.where,
                "inside": death.inside,
                "process": None if death.kill.everybody else death.kill.rank,
                "newest_checkpoint": death.checkpoint,
            }
            for death in found.deaths
        ],
        "states_equal": found.compared,
        "first_difference": None
        if found.difference is None
        else {
            "step": found.step,
            "resumed_from": found.resumed_from,
            "process": found.rank,
            **asdict(found.difference),
        },
        "faults": found.faults,
        "seconds": {"straight": round(found.seconds_straight, 1), "killed": round(found.seconds_killed, 1)},
    }
