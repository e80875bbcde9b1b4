"""Seconds of the group-Lasso penalty with its gradient, on as many weights as BERT-base's encoder has."""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from hf_sparse.sparsity.groups import group_norms
from hf_sparse.sparsity.methods.group_lasso import GroupLasso
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.targets import Target, Targets
from measuring import write_results

LAYERS = 12
LAYER = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
PATTERNS = ("4x4", "16x16", "1x4", "row/8", "column/8", "row", "column")
COLUMNS = ("groups", "gradient ms", "proximal step ms", "autograd ms", "times faster than autograd")


def targets() -> Targets:
    """Return Linears with gradients, of the shapes of an encoder."""
    torch.manual_seed(0)
    found = []
    for number, (rows, columns) in enumerate(LAYER * LAYERS):
        module = nn.Linear(columns, rows, bias=False)
        module.weight.grad = torch.randn(rows, columns) * 1e-3
        found.append(Target(f"{number}.weight", module))
    return Targets(tuple(found), ())


def in_autograd(penalty: GroupLasso, blocks: dict[str, Block]) -> None:
    """Compute the penalty as a term of a loss, the straightforward way."""
    total = torch.zeros(())
    for target in penalty.targets:
        norms = group_norms(target.parameter, blocks[target.name])
        total = total + (norms / (norms.detach() + penalty.epsilon)).sum()
    (penalty.strength.value * total).backward()


def milliseconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    found, rows = targets(), []
    for pattern in PATTERNS:
        blocks = {name: parse_pattern(pattern).fit(name, shape) for name, shape in found.shapes.items()}
        penalty = GroupLasso(found, blocks, 1e-4)
        penalty.strength.value = 1e-12
        ways = {
            "gradient ms": penalty.add_gradients,
            "proximal step ms": penalty.proximal_step,
            "autograd ms": partial(in_autograd, penalty, blocks),
        }
        taken = {name: [] for name in ways}
        for _ in range(options.repeats + 1):
            for name, way in ways.items():
                taken[name].append(milliseconds(way))
        # The first call allocates memory that later calls use again.
        medians = {name: statistics.median(times[1:]) for name, times in taken.items()}
        ratio = medians["autograd ms"] / medians["gradient ms"]
        figures = {name: round(value, 1) for name, value in medians.items()}
        rows.append({"groups": pattern, **figures, "times faster than autograd": round(ratio, 1)})
        print(rows[-1], flush=True)
    weights = sum(target.weight.numel() for target in found)
    settings = {"weights": weights, "repeats": options.repeats, "threads": torch.get_num_threads()}
    print(write_results("group_lasso", "The penalty of group Lasso", rows, settings, COLUMNS))


if __name__ == "__main__":
    main()
