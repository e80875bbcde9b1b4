"""`hf-sparse shrink`."""

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Model, Out
from hf_sparse.cli.waiting import working


def shrink(context: typer.Context, model: Model, out: Out) -> None:
    """Take dead neurons out of a pruned model, for the same outputs.

    Dead are neurons of feed-forward layers that pruning by row or column has left without weights. As many
    are removed from each layer as the layer with the fewest has, so that stock transformers loads the result.

    Try: hf-sparse shrink pruned_by_row smaller
    """
    with plain_errors(context.obj):
        with working("Shrinking"):
            from hf_sparse.checkpoint.contract import renew_contract
            from hf_sparse.checkpoint.loading import load_tokenizer
            from hf_sparse.sparsity.shrink import shrink as shrink_model
            from hf_sparse.training import one_shot
            from hf_sparse.training.post_training import load_unrounded

            one_shot.require_own(out)
            loaded = load_unrounded(model)
            before = loaded.num_parameters()
            shrunk = shrink_model(loaded)
            if shrunk.now == shrunk.before:
                fewest = min(shrunk.dead, key=shrunk.dead.get)
                raise ValueError(
                    f"{fewest} has no dead neuron, so none can be removed of any layer; prune with pattern "
                    "row or column and allocation uniform first"
                )
            renew_contract(loaded)
            one_shot.save_pruned(loaded, out, load_tokenizer(model))
        Console().print(
            f"Feed-forward layers of {shrunk.now:,} neurons instead of {shrunk.before:,}; "
            f"{loaded.num_parameters():,} parameters instead of {before:,}.",
            highlight=False,
        )
