"""`hf-sparse targets`."""

import json

import typer

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Exclude, Include, Json, Model, Variant, chosen_weights
from hf_sparse.cli.progress import working


def targets(
    context: typer.Context,
    model: Model,
    variant: Variant = None,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = False,
) -> None:
    """Show which weights can be pruned, and why others cannot.

    Try: hf-sparse targets bert-base-uncased --exclude intermediate
    """
    with plain_errors(context.obj), chosen_weights(model, variant) as model:
        with working("Loading"):
            from hf_sparse.checkpoint.load import load_model
            from hf_sparse.targets import find_targets

            # The head is loaded too, since --include may name its layers.
            found = find_targets(load_model(model, restore=False, strict=False), include or (), exclude or ())
        if as_json:
            shapes = [{"name": name, "shape": shape} for name, shape in found.shapes.items()]
            left_out = [{"name": entry.name, "reason": entry.reason} for entry in found.left_out]
            typer.echo(json.dumps({"targets": shapes, "left_out": left_out}))
        else:
            typer.echo(found)
