"""`hf-sparse inspect`."""

import json
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Exclude, Include, Json, Model, Png


def inspect(
    context: typer.Context,
    model: Model,
    weight: Annotated[str | None, typer.Option(help="Look at this one weight alone.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Show how sparse a saved model is, where, and what it takes.

    In which layers, in which pattern, and whether it lost zeros; how small it is beside what it could be.

    Exits with 2 if weights have fewer zeros than the model's configuration records.

    Try: hf-sparse inspect pruned --png heatmap.png
    """
    with plain_errors(context.obj):
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
