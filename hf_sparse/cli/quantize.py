"""`hf-sparse quantize`."""

import json
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.completion import ACTIVATIONS, OBSERVERS, WEIGHTS, one_of
from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Exclude, Include, Json, Model, Out, TextColumn, Tokenizer
from hf_sparse.cli.waiting import counted, working


def quantize(
    context: typer.Context,
    model: Model,
    out: Out,
    calibration: Annotated[str, typer.Option(help="Texts as the task has: Hub or path.")],
    text_column: TextColumn = None,
    samples: Annotated[int, typer.Option(help="Texts to look at.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Texts at a time.")] = 16,
    max_seq_length: Annotated[int, typer.Option(help="Tokens of a text.")] = 128,
    weights: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(WEIGHTS),
            show_default=False,
            help="int8_per_channel (default), int4_group_32, ...",
        ),
    ] = "int8_per_channel",
    activations: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(ACTIVATIONS),
            show_default=False,
            help="uint8_per_tensor (default), int8_per_token, none.",
        ),
    ] = "uint8_per_tensor",
    embeddings: Annotated[
        str | None, typer.Option(autocompletion=one_of(WEIGHTS), help="Of their tables; floats by default.")
    ] = None,
    observer: Annotated[
        str | None,
        typer.Option(
            autocompletion=one_of(OBSERVERS), help="min_max (default), moving_average, percentile, ..."
        ),
    ] = None,
    tokenizer: Tokenizer = None,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = False,
) -> None:
    """Quantize a trained model without training it.

    Try: hf-sparse quantize my_model my_model_int8 --calibration train.csv
    """
    with plain_errors(context.obj):
        with working("Loading"):
            from hf_sparse.checkpoint.carrying import carried
            from hf_sparse.data.calibration import TextBatches, load_texts
            from hf_sparse.data.positions import most_tokens
            from hf_sparse.demo.progress import silence
            from hf_sparse.training.post_training import (
                calibration_recipe,
                load_for_texts,
                quantize_trained,
                require_own,
                save_quantized,
            )

            others = carried(model, tokenizer=tokenizer is None)
            require_own(out, others)
            given = {"observer": observer, "embeddings": embeddings, "include": include, "exclude": exclude}
            chosen = {name: value for name, value in given.items() if value}
            recipe = calibration_recipe(weights=weights, activations=activations, **chosen)
            loaded, reader, accepted = load_for_texts(model, tokenizer)
            texts = load_texts(calibration, text_column or (), samples)
            length = min(max_seq_length, most_tokens(loaded) or max_seq_length)
            batches = TextBatches(texts, reader, accepted, batch_size, length)
        with silence():
            layers = quantize_trained(loaded, counted(batches, "Calibrating"), recipe)
        with working("Saving"):
            save_quantized(loaded, out, recipe, reader, model, others)
        if as_json:
            schemes = {"weights": recipe.weights, "activations": recipe.activations}
            found = {"layers": len(layers), **schemes, "embeddings": recipe.embeddings, "texts": len(texts)}
            typer.echo(json.dumps({"directory": str(out), **found}))
            return
        console = Console()
        console.print(
            f"{len(layers)} layers quantized: weights {recipe.weights}, activations {recipe.activations}, "
            f"{'' if embeddings is None else f'embeddings {recipe.embeddings}, '}from {len(texts)} texts.",
            highlight=False,
        )
        # Whole, for it to be copied.
        next_step = f"Now write a small directory: hf-sparse pack {out} {out}-packed"
        console.print(next_step, highlight=False, markup=False, soft_wrap=True)
