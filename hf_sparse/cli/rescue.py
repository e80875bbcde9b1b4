"""`hf-sparse rescue`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Json, Model, Out
from hf_sparse.cli.waiting import working

if TYPE_CHECKING:
    from hf_sparse.hub.legacy.loading import Rescued


def rescue(context: typer.Context, model: Model, out: Out, as_json: Json = False) -> None:
    """Turn an old sparse checkpoint into one that loads today.

    Of Intel's Prune Once for All, oBERT, nn_pruning, torch.nn.utils.prune, SparseML or compressed-tensors.
    What is written is plain, records its zeros, and was loaded once more to see that its logits are those of
    the layout; anything that would not be equal is refused.

    Try: hf-sparse rescue Intel/bert-base-uncased-sparse-90-unstructured-pruneofa rescued
    """
    with plain_errors(context.obj):
        with working("Rescuing"):
            from hf_sparse.hub.legacy.loading import load_legacy, require_own

            require_own(out)
            rescued = load_legacy(model)
            difference = rescued.save(out)
        if as_json:
            typer.echo(json.dumps(_as_dict(model, str(out), rescued, difference)))
        else:
            _print(model, str(out), rescued, difference, Console())


def _print(name: str, out: str, rescued: "Rescued", difference: float, console: Console) -> None:
    layouts = ", ".join(rescued.layouts) or "plain weights"
    lines = [
        f"{name}: {layouts}",
        *(f"  {note}." for note in rescued.notes),
        f"Zeros: {rescued.sparsity:.1%} of {len(rescued.weights)} weights; pattern {_pattern(rescued)}.",
        f"Logits differ from those of the layout by {difference:.1g} of the largest.",
        f"{out}: {type(rescued.model).__name__}, which from_pretrained loads.",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)


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
        "difference": difference,
    }
