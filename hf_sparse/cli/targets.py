"""`hf-sparse targets`."""

import json

import typer

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Exclude, Include, Json, Model
from hf_sparse.cli.waiting import working


def targets(
    context: typer.Context,
    model: Model,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = False,
) -> None:
    """Show which weights a recipe prunes, and why not others.

    Try: hf-sparse targets bert-base-uncased --exclude intermediate
    """
    with plain_errors(context.obj):
        with working("Loading"):
            from transformers import AutoConfig, AutoModel

            from hf_sparse.targets import find_targets

            loaded = AutoModel.from_pretrained(model, config=AutoConfig.from_pretrained(model))
            found = find_targets(loaded, include or (), exclude or ())
        if as_json:
            shapes = [{"name": name, "shape": shape} for name, shape in found.shapes.items()]
            left_out = [{"name": entry.name, "reason": entry.reason} for entry in found.left_out]
            typer.echo(json.dumps({"targets": shapes, "left_out": left_out}))
        else:
            typer.echo(found)
