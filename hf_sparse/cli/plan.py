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
from hf_sparse.cli.progress import working

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_sparse.planning.pattern_speedup import Speedup


def plan(
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
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Optimizer steps of the run. Give these or --dataset-name."),
    ] = None,
    dataset_name: Annotated[
        str | None,
        typer.Option(
            help="Dataset: Hub name, directory or file. The number of its rows gives the length of the run."
        ),
    ] = None,
    per_device_train_batch_size: Annotated[
        int, typer.Option(min=1, help="Rows in a batch of one process.")
    ] = 8,
    num_train_epochs: Annotated[float, typer.Option(min=0, help="Passes over the dataset.")] = 3.0,
    gradient_accumulation_steps: Annotated[
        int, typer.Option(min=1, help="Number of batches in one optimizer step.")
    ] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Number of processes that share the dataset.")] = 1,
    max_seq_length: Annotated[
        int, typer.Option(help="Tokens of each text: the estimated cost assumes this length for all.")
    ] = 128,
    model_name_or_path: Annotated[
        str | None,
        typer.Option(
            help="Model to train: Hub name or directory. With it, the plan names layers, memory and cost."
        ),
    ] = None,
    teacher_name_or_path: Annotated[
        str | None,
        typer.Option(
            help="Model to distill from: Hub name or directory. By default a copy of the model to train."
        ),
    ] = None,
    model_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Keyword of from_pretrained for both models, such as attn_implementation=eager. May be "
            "repeated.",
        ),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 5e-5,
    lr_scheduler_type: Annotated[
        str, typer.Option(help="Schedule of the learning rate, as TrainingArguments names it.")
    ] = "linear",
    lr_scheduler_kwargs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Setting of that schedule, such as min_lr_rate=0.1, or all of them as a JSON object. May be "
            "repeated.",
        ),
    ] = None,
    warmup_steps: Annotated[float, typer.Option(help="Steps of warm-up; below 1, a share of the run.")] = 0.0,
    speed: Annotated[
        bool,
        typer.Option("--speed", help="Measure on this CPU how much faster a layer is with each pattern."),
    ] = False,
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Show what a recipe does in a run, or why it cannot work.

    Nothing is trained. The options that describe the run have the names of TrainingArguments and of the
    scripts.

    Try: hf-sparse plan prune_ofa_90 --max-steps 10000
    """
    with plain_errors(context.obj):
        from hf_sparse.checkpoint.load import load_model
        from hf_sparse.distillation.teacher import load_teacher
        from hf_sparse.planning.estimate import Batch
        from hf_sparse.planning.pattern_speedup import print_speedup
        from hf_sparse.planning.plan import count_rows, count_steps, make_plan
        from hf_sparse.planning.plan_figure import plan_figure
        from hf_sparse.planning.plan_table import plan_as_dict, print_plan
        from hf_sparse.report.pictures import write_png
        from hf_sparse.training.arguments import SparseArguments

        if (max_steps is None) == (dataset_name is None):
            raise ValueError(
                "the length of the run is given by --max-steps or by --dataset-name, one of them"
            )
        if teacher_name_or_path is not None and model_name_or_path is None:
            raise ValueError(
                "--teacher-name-or-path is checked against the model it teaches; add --model-name-or-path"
            )
        chosen = SparseArguments(recipe=recipe, recipe_override=recipe_override or []).build_recipe()
        with working("Planning"):
            batch = Batch(per_device_train_batch_size, gradient_accumulation_steps, max_seq_length)
            steps = max_steps or 0
            if dataset_name is not None:
                steps = count_steps(
                    count_rows(dataset_name),
                    per_device_train_batch_size,
                    num_train_epochs,
                    gradient_accumulation_steps,
                    processes,
                )
            options = _assignments(model_option)
            student = teacher = None
            if model_name_or_path is not None:
                student = load_model(model_name_or_path, restore=False, strict=False, **options)
                if teacher_name_or_path is not None:
                    teacher = load_teacher(teacher_name_or_path, student, **options)
            planned = make_plan(
                chosen,
                steps,
                learning_rate,
                lr_scheduler_type,
                warmup_steps,
                _assignments(lr_scheduler_kwargs),
                student,
                teacher,
                batch,
            )
        if png is not None:
            write_png(plan_figure(planned, f"{Path(recipe).stem}, {steps:,} steps"), png)
        speedup = _speedup(student, max_seq_length) if speed else None
        if as_json:
            typer.echo(json.dumps(plan_as_dict(planned) | ({"speed": asdict(speedup)} if speedup else {})))
            return
        print_plan(planned, Console())
        if speedup is not None:
            pattern = chosen.sparsity and getattr(chosen.sparsity, "pattern", None)
            print_speedup(speedup, [str(pattern)], Console())


def _speedup(student: "PreTrainedModel | None", tokens: int) -> "Speedup":
    from math import prod

    from hf_sparse.planning.pattern_speedup import measure_speedup
    from hf_sparse.runtime.bindings import load_kernels
    from hf_sparse.targets import find_targets

    kernels = load_kernels()
    if kernels is None:
        raise ValueError(
            "--speed measures kernels that need a C++ compiler, and none was found; leave it out"
        )
    shapes = {} if student is None else find_targets(student).shapes
    with working("Measuring"):
        # Without a model, the largest layer of BERT-base.
        return measure_speedup(kernels, max(shapes.values(), key=prod, default=(3072, 768)), tokens)


def _assignments(texts: list[str] | None) -> dict[str, Any]:
    """Read settings, each an assignment such as `a.b=1` or a JSON object of several."""
    from hf_sparse.readers import parse_assignment

    found: dict[str, Any] = {}
    for text in texts or ():
        if text.startswith("{"):
            try:
                found |= json.loads(text)
            except ValueError as error:
                raise ValueError(f"{text} is not JSON ({error}); write an object, or KEY=VALUE") from error
        else:
            path, value = parse_assignment(text)
            found[".".join(path)] = value
    return found
