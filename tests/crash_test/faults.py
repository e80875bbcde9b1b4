"""Processes of a crash test in which hf_sparse has a fault."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_sparse.crash_test.job import train
from hf_sparse.sparsity.revival import RememberedWeights
from hf_sparse.training.checkpoints import atomic_checkpoints
from hf_sparse.training.parts.sparsity_part import SparsityPart


def without_remembered_values(task: Path, quiet: bool) -> None:
    """Run a task; checkpoints hold zeros in place of the values of removed weights."""
    SparsityPart.state = _without_values(SparsityPart.state)
    train(task, quiet)


def written_in_place(task: Path, quiet: bool) -> None:
    """Run a task; a checkpoint is moved to its final name before its list of files is written."""
    moved = atomic_checkpoints.replace_directory

    def move_early(staged: Path, final: Path) -> None:
        (staged / "optimizer.pt").unlink()
        moved(staged, final)

    atomic_checkpoints.replace_directory = move_early
    train(task, quiet)


def _without_values(state: Callable[[SparsityPart], dict[str, Any]]) -> Callable[[SparsityPart], dict]:
    def incomplete(part: SparsityPart) -> dict[str, Any]:
        sections = state(part)
        remembered = part.sparsifier.remembered
        if isinstance(remembered, RememberedWeights) and "remembered" in sections:
            zeros = {name: value.clone().zero_() for name, value in sections["remembered"].items()}
            return sections | {"remembered": zeros}
        return sections

    return incomplete
