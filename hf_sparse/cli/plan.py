"""`hf-sparse plan`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hf_sparse.cli.completion import presets
from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Json, Png
from hf_sparse.cli.waiting import working

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_sparse.runtime.gains import Gains


def plan(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(autocompletion=presets, help="Name of a preset, or a YAML file.")],
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="<key=value>", help="Change the recipe: sparsity.schedule.final=0.8"),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of the run.")] = None,
    data: Annotated[str | None, typer.Option(help="Or its data: Hub name, directory or file.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a process takes at a time.")] = 8,
    epochs: Annotated[float, typer.Option(min=0, help="Passes over the data.")] = 3.0,
    accumulation: Annotated[int, typer.Option(min=1, help="Batches of one optimizer step.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the data.")] = 1,
    max_seq_length: Annotated[int, typer.Option(help="Tokens of a row, for the estimated cost.")] = 128,
    model: Annotated[str | None, typer.Option(help="Model to train: Hub name or directory.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Model to distil from, likewise.")] = None,
    model_option: Annotated[
        list[str] | None,
        typer.Option(metavar="<key=value>", help="How both are loaded: attn_implementation=eager"),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 5e-5,
    lr_scheduler: Annotated[str, typer.Option(help="As TrainingArguments names it.")] = "linear",
    lr_option: Annotated[
        list[str] | None, typer.Option(metavar="<key=value>", help="Its settings: min_lr_rate=0.1")
    ] = None,
    warmup: Annotated[float, typer.Option(help="Steps, or below 1 a share of the run.")] = 0.0,
    speed: Annotated[
        bool, typer.Option("--speed", help="Measure what patterns buy on this machine.")
    ] = False,
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Show what a recipe does in a run, or why it cannot work.

    With what it costs; nothing is trained.

    Try: hf-sparse plan prune_ofa_90 --steps 10000 --model bert-base-uncased
    """
    with plain_errors(context.obj):
        from hf_sparse.checkpoint.loading import load_saved
        from hf_sparse.distillation.teacher import load_teacher
        from hf_sparse.report.gains import print_gains
        from hf_sparse.report.pictures import write_png
        from hf_sparse.report.plan import plan_as_dict, print_plan
        from hf_sparse.report.timeline import plan_figure
        from hf_sparse.training.arguments import SparseArguments
        from hf_sparse.training.estimate import Batch
        from hf_sparse.training.plan import count_rows, count_steps, make_plan

        if (steps is None) == (data is None):
            raise ValueError("the length of the run is given by --steps or by --data, one of them")
        if teacher is not None and model is None:
            raise ValueError("--teacher is checked against the model it teaches; add --model")
        chosen = SparseArguments(recipe=recipe, recipe_override=change or []).build_recipe()
        with working("Planning"):
            if data is not None:
                steps = count_steps(count_rows(data), batch_size, epochs, accumulation, processes)
            options = _assignments(model_option)
            student = model and load_saved(model, **options)
            planned = make_plan(
                chosen,
                steps,
                learning_rate,
                lr_scheduler,
                warmup,
                _assignments(lr_option),
                student,
                teacher and load_teacher(teacher, student, **options),
                Batch(batch_size, accumulation, max_seq_length),
            )
        if png is not None:
            write_png(plan_figure(planned, f"{Path(recipe).stem}, {steps:,} steps"), png)
        gains = _gains(student, max_seq_length) if speed else None
        if as_json:
            typer.echo(json.dumps(plan_as_dict(planned) | ({"speed": asdict(gains)} if gains else {})))
            return
        print_plan(planned, Console())
        if gains is not None:
            pattern = chosen.sparsity and getattr(chosen.sparsity, "pattern", None)
            print_gains(_about(gains), gains.times, [str(pattern)], Console())


def _gains(student: "PreTrainedModel | None", tokens: int) -> "Gains":
    from math import prod

    from hf_sparse.runtime.gains import measure_gains
    from hf_sparse.runtime.library import load_kernels
    from hf_sparse.targets import find_targets

    kernels = load_kernels()
    if kernels is None:
        raise ValueError("--speed measures kernels that need a C++ compiler, and there is none; leave it out")
    shapes = {} if student is None else find_targets(student).shapes
    with working("Measuring"):
        # Without a model, the largest layer of BERT-base.
        return measure_gains(kernels, max(shapes.values(), key=prod, default=(3072, 768)), tokens)


def _about(gains: "Gains") -> str:
    rows, columns = gains.shape
    return (
        f"One layer of {rows} x {columns} in the CPU runtime ({gains.path}), {gains.tokens} tokens:\n"
        f"dense in 8 bits {gains.dense * 1e3:.2f} ms, PyTorch in float32 {gains.floats * 1e3:.2f} ms; how "
        "often\nfaster than dense in 8 bits it is when sparse:"
    )


def _assignments(texts: list[str] | None) -> dict[str, Any]:
    from hf_sparse.reading import parse_assignment

    pairs = [parse_assignment(text) for text in texts or ()]
    return {".".join(path): value for path, value in pairs}
