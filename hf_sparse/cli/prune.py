"""`hf-sparse prune`."""

from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Exclude, Include, Model, Out
from hf_sparse.cli.waiting import counted, working


def prune(
    context: typer.Context,
    model: Model,
    out: Out,
    sparsity: Annotated[float, typer.Option(help="Share of the weights to remove, such as 0.5.")],
    pattern: Annotated[str, typer.Option(help="Such as 2:4, 4x4.")] = "unstructured",
    method: Annotated[str, typer.Option(help="magnitude, or wanda, sparse_gpt, which look at texts.")] = (
        "magnitude"
    ),
    calibration: Annotated[
        str | None, typer.Option(help="Texts that the model is meant for: Hub name, directory or file.")
    ] = None,
    text_column: Annotated[
        list[str] | None, typer.Option(help="Column of the texts; give it twice for pairs.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Texts to look at.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Texts at a time.")] = 8,
    max_seq_length: Annotated[int, typer.Option(help="Tokens of a text.")] = 512,
    tokenizer: Annotated[str | None, typer.Option(help="Where it is, if not with the model.")] = None,
    include: Include = None,
    exclude: Exclude = None,
) -> None:
    """Remove weights of a trained model at once, without training it.

    Decoders of some billion weights bear half of them gone by wanda or sparse_gpt; small models should be
    trained on afterwards, or pruned while they train.

    Try: hf-sparse prune my_model my_model_half --sparsity 0.5 --method wanda --calibration texts.txt
    """
    with plain_errors(context.obj):
        with working("Loading"):
            from hf_sparse.checkpoint.loading import load_tokenizer
            from hf_sparse.data.calibration import TextBatches, load_texts
            from hf_sparse.demo.progress import silence
            from hf_sparse.oneshot.statistics import STATISTICS
            from hf_sparse.training import one_shot
            from hf_sparse.training.post_training import load_for_texts, load_unrounded
            from hf_sparse.training.prune import prune as prune_weights

            one_shot.require_own(out)
            settings = {
                "pattern": pattern,
                "method": method,
                "include": include or (),
                "exclude": exclude or (),
            }
            if (method in STATISTICS) != (calibration is not None):
                raise ValueError(
                    f"method {method} looks at texts; give them with --calibration"
                    if method in STATISTICS
                    else f"method {method} looks at no texts; leave --calibration out, or choose wanda"
                )
            if calibration is None:
                loaded, reader = load_unrounded(model), load_tokenizer(tokenizer or model)
            else:
                loaded, reader, accepted = load_for_texts(model, tokenizer)
                texts = load_texts(calibration, text_column or (), samples)
                batches = TextBatches(texts, reader, accepted, batch_size, max_seq_length)
        if calibration is None:
            masks = prune_weights(loaded, sparsity, **settings)
        else:
            with silence():
                masks = one_shot.prune_with_data(loaded, sparsity, counted(batches, "Reading"), **settings)
        one_shot.save_pruned(loaded, out, reader)
        Console().print(
            f"{masks.sparsity:.1%} of {len(masks.targets)} weights removed: {pattern}, by {method}.",
            highlight=False,
        )
