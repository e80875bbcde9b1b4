"""`hf-sparse targets`."""

import typer

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Exclude, Include, Model


def targets(context: typer.Context, model: Model, include: Include = None, exclude: Exclude = None) -> None:
    """Show which weights a recipe would prune, and why not the others.

    Try: hf-sparse targets bert-base-uncased --exclude intermediate
    """
    with plain_errors(context.obj):
        from transformers import AutoConfig, AutoModel

        from hf_sparse.targets import find_targets

        loaded = AutoModel.from_pretrained(model, config=AutoConfig.from_pretrained(model))
        typer.echo(find_targets(loaded, include or (), exclude or ()))
