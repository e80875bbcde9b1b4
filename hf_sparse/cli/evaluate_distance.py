"""`hf-sparse evaluate-distance`."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import (
    BatchSize,
    Json,
    MaxSeqLength,
    Model,
    Samples,
    TextColumn,
    Variant,
    chosen_weights,
)
from hf_sparse.cli.progress import counted, working


def evaluate_distance(
    context: typer.Context,
    model: Model,
    teacher: Annotated[str, typer.Argument(help="Dense encoder to compare with: Hub name or directory.")],
    data: Annotated[
        str,
        typer.Argument(help="Texts that neither model was trained on: Hub dataset, directory or file."),
    ],
    variant: Variant = None,
    text_column: TextColumn = None,
    samples: Samples = 256,
    batch_size: BatchSize = 16,
    max_seq_length: MaxSeqLength = 128,
    as_json: Json = False,
) -> None:
    """Measure how far hidden states are from the teacher's.

    The relative error of each layer is the squared error divided by the squares of the teacher's states: 0
    for a copy of the teacher, 1 for states of zeros.

    Try: hf-sparse evaluate-distance pruned bert-base-uncased validation.parquet
    """
    with plain_errors(context.obj), chosen_weights(model, variant) as model:
        with working("Loading"):
            from transformers import AutoTokenizer

            from hf_sparse.checkpoint.load import requantize
            from hf_sparse.data.calibration import TextBatches, load_texts
            from hf_sparse.data.positions import most_tokens
            from hf_sparse.distillation.distance import layer_distances, load_encoders

            student, dense, accepted = load_encoders(model, teacher)
            requantize(student, model)
            reader = AutoTokenizer.from_pretrained(teacher)
            texts = load_texts(data, text_column or (), samples)
            length = min(max_seq_length, *(most_tokens(one) or max_seq_length for one in (student, dense)))
            batches = TextBatches(texts, reader, accepted, batch_size, length)
        found = layer_distances(student, dense, counted(batches, "Measuring"))
        if as_json:
            typer.echo(json.dumps({"texts": len(texts), "distances": found}))
            return
        table = Table("layer", "relative error", title=f"Hidden states, {len(texts)} texts")
        for layer, distance in found.items():
            table.add_row(str(layer), f"{distance:.3f}")
        Console().print(table)
