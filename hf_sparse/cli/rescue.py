"""`hf-sparse rescue`."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Json, Model, NewDir, Variant, chosen_weights
from hf_sparse.cli.progress import working

if TYPE_CHECKING:
    from hf_sparse.hub.legacy.load import Rescued


def rescue(
    context: typer.Context,
    model: Model,
    output_dir: NewDir,
    variant: Variant = None,
    model_revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the model on the Hub. By default main.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn an old sparse checkpoint into one that loads today.

    Reads checkpoints of Intel's Prune Once for All, oBERT, nn_pruning, torch.nn.utils.prune, SparseML and
    compressed-tensors, and writes a model that from_pretrained loads, with its zeros recorded.

    The logits of the result are compared with those of the old layout, before rounding if that rounds; if
    they differ, nothing is written.

    Try: hf-sparse rescue my_old_checkpoint rescued
    """
    with plain_errors(context.obj), chosen_weights(model, variant) as model:
        with working("Rescuing"):
            from hf_sparse.hub.legacy.load import load_legacy, require_new

            require_new(output_dir)
            rescued = load_legacy(model, revision=model_revision)
            difference = rescued.save(output_dir)
        if as_json:
            typer.echo(json.dumps(_as_dict(model, str(output_dir), rescued, difference)))
        else:
            _print(model, str(output_dir), rescued, difference, Console())


def _print(name: str, out: str, rescued: "Rescued", difference: float, console: Console) -> None:
    layouts = ", ".join(rescued.layouts) or "plain weights"
    lines = [
        f"{name}: {layouts}",
        *(f"  {note}." for note in rescued.notes),
        f"Zeros: {rescued.sparsity:.1%} of {len(rescued.weights)} weights; pattern {_pattern(rescued)}.",
        *_proof(rescued, difference),
        f"{out}: {type(rescued.model).__name__}, which from_pretrained loads.",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _proof(rescued: "Rescued", difference: float) -> Iterator[str]:
    if rescued.difference is None:
        equal = f"differ by {difference:.1g} of the largest" if difference else "equal"
        yield f"Saved and loaded again: logits {equal}."
    else:
        unrounded = " before rounding" if rescued.rounding else ""
        yield f"Logits differ from those of the layout{unrounded} by {difference:.1g} of the largest."
    if (rounding := rescued.rounding) is None:
        return
    if rounding.difference is not None:
        moved = f"{rounding.difference:.1g} of the largest"
        yield f"Rounding in {rounding.layers} layers, which is gone, moved logits by {moved}."
    if rounding.others:
        where = "one place" if len(rounding.others) == 1 else f"{len(rounding.others)} places"
        yield f"Not compared with the rounding of the layout in {where}."


def _pattern(rescued: "Rescued") -> str:
    if rescued.pattern is None:
        return "none"
    return f"{rescued.pattern} in {sum(weight.pattern == rescued.pattern for weight in rescued.weights)}"


def _as_dict(name: str, out: str, rescued: "Rescued", difference: float) -> dict[str, Any]:
    return {
        "model": name,
        "directory": out,
        "architecture": type(rescued.model).__name__,
        "layouts": rescued.layouts,
        "notes": rescued.notes,
        "pattern": rescued.pattern,
        "sparsity": rescued.sparsity,
        "weights": [asdict(weight) | {"sparsity": weight.sparsity} for weight in rescued.weights],
        "difference": None if rescued.difference is None else difference,
        "rounding": None if rescued.rounding is None else asdict(rescued.rounding),
    }
