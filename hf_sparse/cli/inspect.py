"""`hf-sparse inspect`."""

import json
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import WANTING, plain_errors
from hf_sparse.cli.options import Exclude, Include, Json, Model, Png, Variant, chosen_weights
from hf_sparse.cli.progress import working


def inspect(
    context: typer.Context,
    model: Model,
    variant: Variant = None,
    weight: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Inspect this weight only: its name, or a part that no other has."),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(min=0, help="With --png, draw the weights of this layer, counted from 0."),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Show how sparse a model is, where, and what it takes.

    Shows the sparsity and the pattern of each layer, the size on disk beside what other formats would take,
    and whether the model lost zeros since it was pruned.

    The exit code is 3 if weights have fewer zeros than config.json records, or if none has a recorded name.

    Try: hf-sparse inspect pruned --png heatmap.png
    """
    with plain_errors(context.obj), chosen_weights(model, variant) as model:
        from hf_sparse.checkpoint.load import load_model
        from hf_sparse.checkpoint.saved_files import weight_bytes
        from hf_sparse.checkpoint.sizes import measure_sizes
        from hf_sparse.report.heatmap import layer_figure, sparsity_figure, weight_figure
        from hf_sparse.report.inspection import (
            inspect_saved,
            inspection_as_dict,
            print_inspection,
            print_weight,
        )
        from hf_sparse.report.pictures import write_png
        from hf_sparse.sparsity.inspection import find_weight
        from hf_sparse.targets import find_targets

        if layer is not None and (png is None or weight is not None):
            raise ValueError("--layer chooses what --png FILE draws; add --png, and leave --weight out")
        with working("Loading"):
            loaded = load_model(model)
        if weight is not None:
            chosen = find_weight(loaded, weight)
        else:
            chosen = find_targets(loaded, include or (), exclude or ())
        with working("Inspecting"):
            # Sizes are those of the whole model, so none are shown for a part of it.
            sizes = None if weight or include or exclude else measure_sizes(loaded, model)
            found = inspect_saved(model, loaded, chosen, weight_bytes(model), sizes)
        if png is not None and weight is not None:
            write_png(weight_figure(chosen.found[0]), png)
        elif png is not None and layer is not None:
            write_png(layer_figure(chosen, layer, f"{model}: zeros of layer {layer}"), png)
        elif png is not None:
            write_png(sparsity_figure(found.inspection.weights, f"{model}: zeros (%)"), png)
        if as_json:
            typer.echo(json.dumps(inspection_as_dict(found)))
        elif weight is not None:
            print_weight(found, Console())
        else:
            print_inspection(found, Console())
    if found.lost:
        raise typer.Exit(WANTING)
