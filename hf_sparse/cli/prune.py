"""`hf-sparse prune`."""

import json
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.completion import METHODS, PATTERNS, one_of
from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Exclude, Include, Json, Model, Out, TextColumn, Tokenizer
from hf_sparse.cli.waiting import counted, working


def prune(
    context: typer.Context,
    model: Model,
    out: Out,
    sparsity: Annotated[float, typer.Option(help="Share to remove, such as 0.5.")],
    pattern: Annotated[
        str, typer.Option(autocompletion=one_of(PATTERNS), help="Such as 2:4, 4x4.")
    ] = "unstructured",
    method: Annotated[
        str,
        typer.Option(
            autocompletion=one_of(METHODS),
            show_default=False,
            help="magnitude (default); wanda, sparse_gpt see texts.",
        ),
    ] = "magnitude",
    calibration: Annotated[str | None, typer.Option(help="These texts: Hub name, directory or file.")] = None,
    text_column: TextColumn = None,
    samples: Annotated[int, typer.Option(help="Texts to look at.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Texts at a time.")] = 8,
    max_seq_length: Annotated[int, typer.Option(help="Tokens of a text.")] = 512,
    tokenizer: Tokenizer = None,
    include: Include = None,
    exclude: Exclude = None,
    as_json: Json = False,
) -> None:
    """Remove weights of a model at once, without training it.

    Try: hf-sparse prune my_model my_model_half --sparsity 0.5 --pattern 2:4
    """
    with plain_errors(context.obj):
        with working("Loading"):
            from hf_sparse.checkpoint.carrying import carried
            from hf_sparse.checkpoint.loading import load_tokenizer
            from hf_sparse.data.calibration import TextBatches, load_texts
            from hf_sparse.data.positions import most_tokens
            from hf_sparse.demo.progress import silence
            from hf_sparse.oneshot.statistics import STATISTICS
            from hf_sparse.sparsity.measure import measure_sparsity
            from hf_sparse.targets import find_targets
            from hf_sparse.training import one_shot
            from hf_sparse.training.post_training import load_for_texts, load_unrounded
            from hf_sparse.training.prune import prune as prune_weights
            from hf_sparse.training.resolve import is_sparse

            one_shot.require_new(out)
            others = carried(model, tokenizer=tokenizer is None)
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
                length = min(max_seq_length, most_tokens(loaded) or max_seq_length)
                batches = TextBatches(texts, reader, accepted, batch_size, length)
            targets = find_targets(loaded, settings["include"], settings["exclude"])
            before = measure_sparsity(loaded, targets).overall if is_sparse(loaded, targets) else 0.0
        if calibration is None:
            with working("Pruning"):
                masks = prune_weights(loaded, sparsity, **settings)
        else:
            with silence():
                masks = one_shot.prune_with_data(loaded, sparsity, counted(batches, "Reading"), **settings)
        with working("Saving"):
            one_shot.save_pruned(loaded, out, reader, others)
        if as_json:
            found = {"sparsity": masks.sparsity, "before": before, "weights": len(masks.targets)}
            typer.echo(json.dumps({"directory": str(out), "pattern": pattern, "method": method, **found}))
            return
        risen = f", up from {before:.1%}" if before else ""
        Console().print(
            f"{masks.sparsity:.1%} of {len(masks.targets)} weights removed{risen}: {pattern}, by {method}.",
            highlight=False,
        )
