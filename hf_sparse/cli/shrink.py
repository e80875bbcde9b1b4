"""`hf-sparse shrink`."""

import json
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Json, Model, NewDir, Variant, chosen_weights
from hf_sparse.cli.progress import working

if TYPE_CHECKING:
    from hf_sparse.sparsity.structured.shrink import Shrunk


def shrink(
    context: typer.Context,
    model: Model,
    output_dir: NewDir,
    variant: Variant = None,
    as_json: Json = False,
) -> None:
    """Remove dead neurons and heads; the outputs stay equal.

    Neurons of feed-forward layers and attention heads are dead if pruning has left them without weights. The
    same number is removed from every layer, that of the layer with the fewest, so that stock transformers
    loads the result. Heads are removed only in architectures whose configuration can hold their number.

    Try: hf-sparse shrink pruned_by_row smaller
    """
    with plain_errors(context.obj), chosen_weights(model, variant) as model:
        with working("Shrinking"):
            from hf_sparse.checkpoint.carry_over import carried
            from hf_sparse.checkpoint.load import load_model, load_tokenizer
            from hf_sparse.checkpoint.sparsity_record import renew_sparsity_record
            from hf_sparse.oneshot import prune_with_data as one_shot
            from hf_sparse.sparsity.structured.shrink import shrink as shrink_model

            one_shot.require_new(output_dir)
            others = carried(model)
            loaded = load_model(model, accept="floats", restore=False, strict=True)
            before = loaded.num_parameters()
            done = shrink_model(loaded)
            if all(part.now == part.before for part in done.values()):
                raise ValueError(f"nothing can be removed: {'; '.join(map(_why_none, done, done.values()))}")
            renew_sparsity_record(loaded)
            one_shot.save_pruned(loaded, output_dir, load_tokenizer(model), others)
        if as_json:
            parts = {kind: {"before": part.before, "now": part.now} for kind, part in done.items()}
            parameters = {"before": before, "now": loaded.num_parameters()}
            typer.echo(json.dumps({"directory": str(output_dir), **parts, "parameters": parameters}))
            return
        console = Console()
        for kind, part in done.items():
            if part.now < part.before:
                text = f"{part.now:,} {kind} in every layer instead of {part.before:,}."
            else:
                text = f"As many {kind} as before: {_why_none(kind, part)}."
            console.print(text, highlight=False, markup=False)
        console.print(f"{loaded.num_parameters():,} parameters instead of {before:,}.", highlight=False)


def _why_none(kind: str, part: "Shrunk") -> str:
    if part.reason:
        return part.reason
    shared = "" if kind == "neurons" else " with all that share their keys and values"
    return f"no dead {kind}{shared} in {min(part.dead, key=part.dead.__getitem__)}"
