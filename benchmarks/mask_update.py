"""Time and memory of recomputing the masks of BERT-base's 85 million encoder weights."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
CHANGES = [(0.0, 0.05), (0.85, 0.9)]
STEPS = [*CHANGES, (0.9, 0.9)]


def grow_to(masks: Masks, sparsity: float, layout: Layout) -> bool:
    return grow(masks, layout.budgets(lambda final: sparsity), METHODS["magnitude"].score, layout.blocks)


def update_seconds(
    targets: Targets,
    pattern: str,
    allocation: str,
    before: float,
    after: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Time one update, from masks at one sparsity to masks at another, applied to the weights."""
    for target in targets:
        torch.nn.init.normal_(target.weight, std=0.02)
    masks, layout = Masks(targets), Layout(targets, parse_pattern(pattern), allocation, least=0.01)
    grow_to(masks, before, layout)
    masks.apply_to_weights()
    started = clock()
    if grow_to(masks, after, layout):
        masks.apply_to_weights()
    return clock() - started


def processor_milliseconds(targets: Targets) -> list[float]:
    """Return the time that one thread needs for the update of each case that changes masks."""
    torch.set_num_threads(1)
    cases = [(*case, *step) for case in CASES for step in CHANGES]
    # The first update also loads or compiles the kernels.
    update_seconds(targets, "unstructured", "uniform", *CHANGES[0])
    return [
        1000 * update_seconds(targets, pattern, allocation, before, after, time.process_time)
        for pattern, allocation, _bar, before, after in cases
    ]


def beside(before: Path, repeats: int) -> dict[tuple[object, ...], dict[str, object]]:
    """Run `processor_milliseconds` with an earlier release and with this one, in turns; return columns.

    They are by case; the ratio is the median of those of the turns.
    """
    here, found = Path(__file__).resolve().parents[1], []
    for _ in track(range(repeats), description="Comparing releases"):
        found.append([_ask(tree) for tree in (before.resolve(), here)])
    columns = {}
    for index, case in enumerate((*case, *step) for case in CASES for step in CHANGES):
        pairs = [(old[index], new[index]) for old, new in found]
        old, new = (statistics.median(side) for side in zip(*pairs, strict=True))
        columns[case] = {
            "cpu ms before": round(old, 1),
            "cpu ms now": round(new, 1),
            "now / before": round(statistics.median(now / then for then, now in pairs), 2),
        }
    return columns


def _ask(tree: Path) -> list[float]:
    command = [sys.executable, str(Path(__file__).resolve()), "--only-processor"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


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
    parser.add_argument("--before", type=Path, help="directory of an earlier release, to compare with")
    parser.add_argument("--only-processor", action="store_true", help="print processor times, and end")
    options = parser.parse_args()
    repeats, targets = options.repeats, find_targets(BertModel(BertConfig()))
    if options.only_processor:
        print(json.dumps(processor_milliseconds(targets)))
        return
    # Cases take turns, so that a busy moment of the machine does not fall on one of them alone.
    seconds = {(*case, *step): [] for case in CASES for step in STEPS}
    references = {"numpy.partition, one thread": [], "a copy of the weights": []}
    for _ in track(range(repeats), description="Updating masks"):
        references["numpy.partition, one thread"].append(partition_seconds(targets))
        references["a copy of the weights"].append(copy_seconds(targets))
        for (pattern, allocation, _bar, before, after), times in seconds.items():
            times.append(update_seconds(targets, pattern, allocation, before, after))
    compared = {} if options.before is None else beside(options.before, repeats)
    rows = [
        {
            "pattern": pattern,
            "allocation": allocation,
            "sparsity": f"{before:.0%} to {after:.0%}",
            "median ms": round(1000 * statistics.median(times), 1),
            "best ms": round(1000 * min(times), 1),
            "bar ms": bar,
            **compared.get((pattern, allocation, bar, before, after), {}),
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
    command = f"python benchmarks/mask_update.py --repeats {repeats}"
    command += " --before EARLIER" if options.before else ""
    title = "Time of a mask update"
    print(settings, write_results("mask_update", title, rows, settings, list(rows[0]), command))


if __name__ == "__main__":
    main()
