"""`hf-sparse quantize`."""

import json
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.completion import ACTIVATIONS, OBSERVERS, WEIGHTS, one_of
from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import (
    BatchSize,
    Calibration,
    Exclude,
    Include,
    Json,
    MaxSeqLength,
    Model,
    OutputDir,
    Samples,
    TextColumn,
    TokenizerName,
    Variant,
    chosen_weights,
)
from hf_sparse.cli.progress import counted, working


def quantize(
    context: typer.Context,
    model: Model,
    output_dir: OutputDir,
    calibration: Calibration,
    variant: Variant = None,
    text_column: TextColumn = None,
    samples: Samples = 256,
    batch_size: BatchSize = 16,
    max_seq_length: MaxSeqLength = 128,
    weights: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(WEIGHTS),
            help="Scheme of the weights: int2 to int8, _per_channel, _per_tensor or _group_N, such as "
            "int4_group_32.",
        ),
    ] = "int8_per_channel",
    activations: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(ACTIVATIONS),
            help="Scheme of the layers' inputs: uint8_per_tensor, int8_per_token or none.",
        ),
    ] = "uint8_per_tensor",
    embeddings: Annotated[
        str | None,
        typer.Option(
            autocompletion=one_of(WEIGHTS),
            help="Scheme of the embedding tables, as for --weights. By default they stay floats.",
        ),
    ] = None,
    observer: Annotated[
        str | None,
        typer.Option(
            autocompletion=one_of(OBSERVERS),
            help="How the range of uint8_per_tensor inputs follows from the texts: min_max, moving_average, "
            "percentile or mean_squared_error. By default min_max.",
        ),
    ] = None,
    tokenizer_name: TokenizerName = None,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = False,
) -> None:
    """Quantize a trained model without training it.

    Try: hf-sparse quantize my_model my_model_int8 --calibration train.csv
    """
    with plain_errors(context.obj), chosen_weights(model, variant) as model:
        with working("Loading"):
            from hf_sparse.checkpoint.carry_over import carried
            from hf_sparse.data.calibration import TextBatches, load_texts
            from hf_sparse.data.positions import most_tokens
            from hf_sparse.demo.progress import silence
            from hf_sparse.oneshot.quantize_trained import (
                calibration_recipe,
                load_for_texts,
                quantize_trained,
                require_own,
                save_quantized,
            )

            others = carried(model, tokenizer=tokenizer_name is None)
            require_own(output_dir, others)
            given = {"observer": observer, "embeddings": embeddings, "include": include, "exclude": exclude}
            chosen = {name: value for name, value in given.items() if value}
            recipe = calibration_recipe(weights=weights, activations=activations, **chosen)
            loaded, reader, accepted = load_for_texts(model, tokenizer_name)
            texts = load_texts(calibration, text_column or (), samples)
            length = min(max_seq_length, most_tokens(loaded) or max_seq_length)
            batches = TextBatches(texts, reader, accepted, batch_size, length)
        with silence():
            layers = quantize_trained(loaded, counted(batches, "Calibrating"), recipe)
        with working("Saving"):
            save_quantized(loaded, output_dir, recipe, reader, model, others)
        if as_json:
            schemes = {"weights": recipe.weights, "activations": recipe.activations}
            found = {"layers": len(layers), **schemes, "embeddings": recipe.embeddings, "texts": len(texts)}
            typer.echo(json.dumps({"directory": str(output_dir), **found}))
            return
        console = Console()
        console.print(
            f"{len(layers)} layers quantized: weights {recipe.weights}, activations {recipe.activations}, "
            f"{'' if embeddings is None else f'embeddings {recipe.embeddings}, '}from {len(texts)} texts.",
            highlight=False,
        )
        # On one line, so that it can be copied.
        next_step = f"Now write a small directory: hf-sparse pack {output_dir} {output_dir}-packed"
        console.print(next_step, highlight=False, markup=False, soft_wrap=True)
