"""`hf-sparse quantize`."""

from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Exclude, Include, Model, Out
from hf_sparse.cli.waiting import counted, working


def quantize(
    context: typer.Context,
    model: Model,
    out: Out,
    calibration: Annotated[
        str, typer.Option(help="Texts like those of the task: Hub name, directory or file.")
    ],
    text_column: Annotated[
        list[str] | None, typer.Option(help="Column of the texts; give it twice for pairs.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Texts to look at.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Texts at a time.")] = 16,
    max_seq_length: Annotated[int, typer.Option(help="Tokens of a text.")] = 128,
    weights: Annotated[
        str, typer.Option(help="Or int8_per_tensor, int4_per_channel, int4_group_32.")
    ] = "int8_per_channel",
    activations: Annotated[str, typer.Option(help="Or int8_per_token, none.")] = "uint8_per_tensor",
    embeddings: Annotated[
        str | None, typer.Option(help="Scheme of the embedding tables, such as int8_per_channel.")
    ] = None,
    observer: Annotated[
        str | None,
        typer.Option(help="min_max (the default), moving_average, percentile, mean_squared_error."),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Where it is, if not with the model.")] = None,
    include: Include = None,
    exclude: Exclude = None,
) -> None:
    """Quantize a trained model without training it.

    Texts show how large its activations are. Writes an ordinary directory, as training with quantization
    does; its weights are not rounded yet.

    Try: hf-sparse quantize my_model my_model_int8 --calibration train.csv
    """
    with plain_errors(context.obj):
        with working("Loading"):
            from hf_sparse.data.calibration import TextBatches, load_texts
            from hf_sparse.demo.progress import silence
            from hf_sparse.training.post_training import (
                calibration_recipe,
                load_for_texts,
                quantize_trained,
                require_own,
                save_quantized,
            )

            require_own(out)
            given = {"observer": observer, "embeddings": embeddings, "include": include, "exclude": exclude}
            chosen = {name: value for name, value in given.items() if value}
            recipe = calibration_recipe(weights=weights, activations=activations, **chosen)
            loaded, reader, accepted = load_for_texts(model, tokenizer)
            texts = load_texts(calibration, text_column or (), samples)
            batches = TextBatches(texts, reader, accepted, batch_size, max_seq_length)
        with silence():
            layers = quantize_trained(loaded, counted(batches, "Calibrating"), recipe)
            save_quantized(loaded, out, recipe, reader, source=model)
        console = Console()
        console.print(
            f"{len(layers)} layers quantized: weights {recipe.weights}, activations {recipe.activations}, "
            f"{'' if embeddings is None else f'embeddings {recipe.embeddings}, '}from {len(texts)} texts.",
            highlight=False,
        )
        # Whole, for it to be copied.
        next_step = f"Now write a small directory: hf-sparse pack {out} {out}-packed"
        console.print(next_step, highlight=False, markup=False, soft_wrap=True)
