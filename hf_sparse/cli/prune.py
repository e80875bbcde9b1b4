"""`hf-sparse prune`."""

import json
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.completion import METHODS, PATTERNS, one_of
from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import (
    BatchSize,
    CalibrationIfNeeded,
    Exclude,
    Include,
    Json,
    MaxSeqLength,
    Model,
    NewDir,
    Samples,
    Sparsity,
    TextColumn,
    TokenizerName,
    Variant,
    chosen_weights,
)
from hf_sparse.cli.progress import counted, working


def prune(
    context: typer.Context,
    model: Model,
    output_dir: NewDir,
    sparsity: Sparsity,
    variant: Variant = None,
    pattern: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(PATTERNS),
            help="Pattern of the zeros: unstructured, blocks of rows x columns such as 4x4, N:M such as "
            "2:4, row, column, or segments of them such as row/8.",
        ),
    ] = "unstructured",
    method: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(METHODS),
            help="How weights are scored: magnitude needs no texts; wanda and sparse_gpt need --calibration.",
        ),
    ] = "magnitude",
    calibration: CalibrationIfNeeded = None,
    text_column: TextColumn = None,
    samples: Samples = 128,
    batch_size: BatchSize = 8,
    max_seq_length: MaxSeqLength = 512,
    tokenizer_name: TokenizerName = None,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = False,
) -> None:
    """Remove weights of a model at once, without training it.

    Try: hf-sparse prune my_model my_model_half --sparsity 0.5 --pattern 2:4
    """
    with plain_errors(context.obj), chosen_weights(model, variant) as model:
        with working("Loading"):
            from hf_sparse.checkpoint.carry_over import carried
            from hf_sparse.checkpoint.load import load_model, load_tokenizer
            from hf_sparse.data.calibration import TextBatches, load_texts
            from hf_sparse.data.positions import most_tokens
            from hf_sparse.demo.progress import silence
            from hf_sparse.oneshot import prune_with_data as one_shot
            from hf_sparse.oneshot.prune import prune as prune_weights
            from hf_sparse.oneshot.prune_with_data import DATA_METHODS
            from hf_sparse.oneshot.quantize_trained import load_for_texts
            from hf_sparse.sparsity.measure import measure_sparsity
            from hf_sparse.targets import find_targets
            from hf_sparse.training.parts.resolve import is_sparse

            one_shot.require_new(output_dir)
            others = carried(model, tokenizer=tokenizer_name is None)
            if (method in DATA_METHODS) != (calibration is not None):
                raise ValueError(
                    f"method {method} needs calibration texts; give them with --calibration"
                    if method in DATA_METHODS
                    else f"method {method} uses no texts; leave --calibration out, or choose wanda"
                )
            if calibration is None:
                loaded = load_model(model, accept="floats", restore=False, strict=True)
                reader = load_tokenizer(tokenizer_name or model)
            else:
                loaded, reader, accepted = load_for_texts(model, tokenizer_name)
                texts = load_texts(calibration, text_column or (), samples)
                length = min(max_seq_length, most_tokens(loaded) or max_seq_length)
                batches = TextBatches(texts, reader, accepted, batch_size, length)
            targets = find_targets(loaded, include or (), exclude or ())
            before = measure_sparsity(loaded, targets).overall if is_sparse(loaded, targets) else 0.0
        if calibration is None:
            with working("Pruning"):
                masks = prune_weights(
                    loaded, sparsity, pattern, method, include=include or (), exclude=exclude or ()
                )
        else:
            with silence():
                read = counted(batches, "Reading")
                masks = one_shot.prune_with_data(
                    loaded, sparsity, read, pattern, method, include or (), exclude or ()
                )
        with working("Saving"):
            one_shot.save_pruned(loaded, output_dir, reader, others)
        if as_json:
            found = {"sparsity": masks.sparsity, "before": before, "weights": len(masks.targets)}
            typer.echo(
                json.dumps({"directory": str(output_dir), "pattern": pattern, "method": method, **found})
            )
            return
        risen = f", up from {before:.1%}" if before else ""
        Console().print(
            f"{masks.sparsity:.1%} of {len(masks.targets)} weights removed{risen}: {pattern}, by {method}.",
            highlight=False,
        )
