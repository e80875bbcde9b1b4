"""Time and memory of recomputing the masks of BERT-base's 85 million encoder weights."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from transformers import BertConfig, BertModel

from hf_sparse import Recipe, find_targets
from hf_sparse.checkpoint.sidecar import SIDECAR, SavedState, write_state
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.mask_update import grow
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.targets import Targets
from measuring import write_results

CASES = [
    ("unstructured", "uniform", 150),
    ("unstructured", "global", 300),
    *((pattern, "uniform", 150) for pattern in ("1x4", "4x1", "4x4", "16x1")),
]
STEPS = [(0.0, 0.05), (0.85, 0.9), (0.9, 0.9)]


def grow_to(masks: Masks, sparsity: float, layout: Layout) -> bool:
    return grow(masks, layout.budgets(lambda final: sparsity), METHODS["magnitude"].score, layout.blocks)


def update_seconds(targets: Targets, pattern: str, allocation: str, before: float, after: float) -> float:
    """Time one update, from masks at one sparsity to masks at another, applied to the weights."""
    for target in targets:
        torch.nn.init.normal_(target.weight, std=0.02)
    masks, layout = Masks(targets), Layout(targets, parse_pattern(pattern), allocation, least=0.01)
    grow_to(masks, before, layout)
    masks.apply_to_weights()
    started = time.perf_counter()
    if grow_to(masks, after, layout):
        masks.apply_to_weights()
    return time.perf_counter() - started


def copy_seconds(targets: Targets) -> float:
    """Time a copy of all weights, to measure the speed of the machine's memory."""
    spare = [torch.zeros_like(target.weight) for target in targets]
    started = time.perf_counter()
    for copy, target in zip(spare, targets, strict=True):
        copy.copy_(target.weight.detach())
    return time.perf_counter() - started


def partition_seconds(targets: Targets) -> float:
    """Time numpy's partition of dense weights, the plain way to find a threshold."""
    weights = [torch.nn.init.normal_(target.weight, std=0.02).detach().numpy().ravel() for target in targets]
    started = time.perf_counter()
    for weight in weights:
        np.partition(np.abs(weight), weight.size // 20)
    return time.perf_counter() - started


def bytes_a_weight(targets: Targets) -> tuple[float, float]:
    """Measure the size of masks at 90 % in memory, and of the sidecar on disk."""
    for target in targets:
        torch.nn.init.normal_(target.weight, std=0.02)
    masks = Masks(targets)
    grow_to(masks, 0.9, Layout(masks.targets, parse_pattern("unstructured")))
    weights = sum(target.weight.numel() for target in targets)
    with tempfile.TemporaryDirectory() as folder:
        write_state(folder, SavedState(Recipe.preset("prune_ofa_90"), 1, 100_000, masks.pack()))
        return masks.nbytes / weights, (Path(folder) / SIDECAR).stat().st_size / weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    targets = find_targets(BertModel(BertConfig()))
    # Cases take turns, so that a busy moment of the machine does not fall on one of them alone.
    seconds = {(*case, *step): [] for case in CASES for step in STEPS}
    references = {"numpy.partition, one thread": [], "a copy of the weights": []}
    for _ in track(range(repeats), description="Updating masks"):
        references["numpy.partition, one thread"].append(partition_seconds(targets))
        references["a copy of the weights"].append(copy_seconds(targets))
        for (pattern, allocation, _bar, before, after), times in seconds.items():
            times.append(update_seconds(targets, pattern, allocation, before, after))
    rows = [
        {
            "pattern": pattern,
            "allocation": allocation,
            "sparsity": f"{before:.0%} to {after:.0%}",
            "median ms": round(1000 * statistics.median(times), 1),
            "best ms": round(1000 * min(times), 1),
            "bar ms": bar,
        }
        for (pattern, allocation, bar, before, after), times in seconds.items()
    ]
    rows += [
        {
            "pattern": f"for comparison: {name}",
            "median ms": round(1000 * statistics.median(times), 1),
            "best ms": round(1000 * min(times), 1),
        }
        for name, times in references.items()
    ]
    in_memory, on_disk = bytes_a_weight(targets)
    settings = {
        "weights": sum(target.weight.numel() for target in targets),
        "repeats": repeats,
        "mask bytes a weight in memory, at 90 %": round(in_memory, 4),
        "sidecar bits a weight on disk, at 90 %": round(8 * on_disk, 4),
    }
    for row in rows:
        print(row)
    print(settings, write_results("mask_update", "Time of a mask update", rows, settings, list(rows[0])))


if __name__ == "__main__":
    main()
