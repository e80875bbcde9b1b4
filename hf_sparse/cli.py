"""The command `hf-sparse`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Sparse, distilled transformers.\n\nTry: hf-sparse demo --output-dir my_demo",
)

Model = Annotated[str, typer.Argument(help="Hub name or directory.")]
Include = Annotated[list[str] | None, typer.Option(help="Choose Linears by name or regular expression.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Leave out some of them, likewise.")]
Png = Annotated[Path | None, typer.Option(help="Draw it into this file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

# Of the machine, the data, the settings; anything else is a fault of the program, whose traceback is wanted.
_EXPECTED = (ValueError, OSError, RuntimeError, ImportError)


@app.callback()
def _common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    context.obj = debug


@app.command()
def demo(
    context: typer.Context,
    output_dir: Annotated[Path, typer.Option(help="Where models, results and picture go.")] = Path(
        "hf_sparse_demo"
    ),
    model: Annotated[
        str | None, typer.Option(help="Masked language model to start from: Hub name or directory.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Texts with labels: Hub name, directory or file.")
    ] = None,
    dataset_config: Annotated[
        str | None, typer.Option(help="Configuration of a Hub data set, such as sst2.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Text to pre-train on: Hub name, directory or file.")
    ] = None,
    sparsity: Annotated[float, typer.Option(help="Share of the encoder's weights to remove.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Decides everything random.")] = 0,
    budget: Annotated[float, typer.Option(help="Multiplies the steps of every stage.")] = 1.0,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps only, to see that it works.")] = False,
) -> None:
    """Prune a small model once while distilling, transfer it to a task, compare; needs no network.

    Without --model and --dataset, the text is Python's own documentation, and the task is to tell which part
    of the standard library a docstring belongs to. A stage found in the output directory is not run again.
    """
    with _plain_errors(context.obj):
        from hf_sparse.demo.job import run_demo
        from hf_sparse.demo.settings import DemoSettings

        settings = DemoSettings(
            output_dir=output_dir,
            model=model,
            dataset=dataset,
            dataset_config=dataset_config,
            text=text,
            sparsity=sparsity,
            seed=seed,
            budget=budget,
            quick=quick,
        )
        run_demo(settings, Console())


@app.command()
def targets(context: typer.Context, model: Model, include: Include = None, exclude: Exclude = None) -> None:
    """Show which weights of a model a recipe would prune, with the reason for every Linear left out.

    Try: hf-sparse targets bert-base-uncased --exclude intermediate
    """
    with _plain_errors(context.obj):
        from transformers import AutoConfig, AutoModel

        from hf_sparse.targets import find_targets

        loaded = AutoModel.from_pretrained(model, config=AutoConfig.from_pretrained(model))
        typer.echo(find_targets(loaded, include or (), exclude or ()))


@app.command()
def plan(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="Name of a preset, or a YAML file.")],
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change the recipe: sparsity.schedule.final=0.8")
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
        list[str] | None, typer.Option(help="How both are loaded: attn_implementation=eager")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 5e-5,
    lr_scheduler: Annotated[str, typer.Option(help="As TrainingArguments names it.")] = "linear",
    lr_option: Annotated[list[str] | None, typer.Option(help="Its settings: min_lr_rate=0.1")] = None,
    warmup: Annotated[float, typer.Option(help="Steps, or below 1 a share of the run.")] = 0.0,
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Show what a recipe does over a run, what it costs, or why it cannot work; nothing is trained.

    Try: hf-sparse plan prune_ofa_90 --steps 10000 --model bert-base-uncased
    """
    with _plain_errors(context.obj):
        from hf_sparse.checkpoint.loading import load_saved
        from hf_sparse.demo.progress import silence
        from hf_sparse.distillation.teacher import load_teacher
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
        with silence():
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
        if as_json:
            typer.echo(json.dumps(plan_as_dict(planned)))
        else:
            print_plan(planned, Console())


@app.command()
def inspect(
    context: typer.Context,
    model: Model,
    weight: Annotated[str | None, typer.Option(help="Look at this one weight alone.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Show how sparse a saved model is, in which layers, in which pattern, and whether it lost zeros.

    Exits with 2 if weights have fewer zeros than the model's configuration records.

    Try: hf-sparse inspect pruned --png heatmap.png
    """
    with _plain_errors(context.obj):
        from hf_sparse.checkpoint.loading import load_saved, weight_bytes
        from hf_sparse.demo.progress import silence
        from hf_sparse.report.heatmap import sparsity_figure, weight_figure
        from hf_sparse.report.inspection import (
            inspect_saved,
            inspection_as_dict,
            print_inspection,
            print_weight,
        )
        from hf_sparse.report.pictures import write_png
        from hf_sparse.sparsity.inspection import find_weight
        from hf_sparse.targets import find_targets

        with silence():
            loaded = load_saved(model)
        if weight is not None:
            chosen = find_weight(loaded, weight)
        else:
            chosen = find_targets(loaded, include or (), exclude or ())
        found = inspect_saved(model, loaded, chosen, weight_bytes(model))
        if png is not None and weight is not None:
            write_png(weight_figure(chosen.found[0]), png)
        elif png is not None:
            write_png(sparsity_figure(found.inspection.weights, f"{model}: zeros (%)"), png)
        if as_json:
            typer.echo(json.dumps(inspection_as_dict(found)))
        elif weight is not None:
            print_weight(found, Console())
        else:
            print_inspection(found, Console())
    if found.lost:
        raise typer.Exit(2)


def main() -> None:
    """Run the command line."""
    app()


def _assignments(texts: list[str] | None) -> dict[str, Any]:
    from hf_sparse.reading import parse_assignment

    pairs = [parse_assignment(text) for text in texts or ()]
    return {".".join(path): value for path, value in pairs}


@contextmanager
def _plain_errors(debug: bool) -> Iterator[None]:
    """Print the first line of an expected error and exit with 1."""
    try:
        yield
    except _EXPECTED as error:
        if debug:
            raise
        first, *more = str(error).strip().splitlines() or [type(error).__name__]
        hint = " (more with hf-sparse --debug)" if more else ""
        message = f"hf-sparse: {first}{hint}"
        Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
