"""Models trained on SST-2 in PyTorch and in the CPU runtime: accuracy, answers that differ, seconds.

    python benchmarks/runtime_accuracy.py --task_data SST2 --work WORK

takes the models that benchmarks/eight_bits.py has left in WORK.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from eight_bits import RECIPES, accuracy, batches
from hf_sparse.benchmark.latency import limited
from hf_sparse.checkpoint.load import load_model
from hf_sparse.runtime import fuse
from hf_sparse.runtime.bindings import load_kernels
from measuring import write_results

NAMES = ("dense", "sparse_90", "sparse_94", *RECIPES)


def answers(model: nn.Module, data: list[dict[str, Tensor]]) -> tuple[Tensor, float]:
    """Return the predicted labels of a model, and the seconds it takes."""
    begin = time.perf_counter()
    with torch.inference_mode():
        found = [
            model(**{k: v for k, v in batch.items() if k != "labels"}).logits.argmax(-1) for batch in data
        ]
    return torch.cat(found), time.perf_counter() - begin


def measure(directory: Path, options: argparse.Namespace) -> dict[str, object]:
    """Score one model in both."""
    data = batches(options, directory)
    model = load_model(str(directory))
    exact, slow = answers(model, data)
    right = accuracy(model, data)
    ready = fuse(model)
    found, fast = answers(ready, data)
    row = {
        "model": directory.name,
        "examples": len(exact),
        "PyTorch": round(right, 4),
        "hf_sparse.runtime": round(accuracy(ready, data), 4),
        "other answers": int((found != exact).sum()),
        "PyTorch s": round(slow, 1),
        "hf_sparse.runtime s": round(fast, 1),
    }
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("task_data", "work"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    found = [
        Path(options.work) / name for name in NAMES if (Path(options.work) / name / "config.json").exists()
    ]
    if not found:
        raise ValueError(
            f"{options.work} holds none of {', '.join(NAMES)}; run benchmarks/eight_bits.py first"
        )
    with limited(1):
        rows = [measure(directory, options) for directory in found]
    settings = {
        "task": "SST-2, batches of 64 with padding",
        "names": "as in eight_bits.json, where the commands that trained them are",
        "PyTorch s": "of quantized models: rounding simulated",
        "threads": 1,
        "path": load_kernels().path,
    }
    command = "python benchmarks/runtime_accuracy.py --task_data TASK_DATA --work WORK"
    print(
        write_results("runtime_accuracy", "SST-2 in the CPU runtime", rows, settings, list(rows[0]), command)
    )


if __name__ == "__main__":
    main()
