"""Throughput against the number of threads that call one model: BERT-base, 4x4 blocks at 90 %, and PyTorch.

Each caller is a thread of a pool that takes the next text of 128 tokens when it has the answer to the last
one. PyTorch and the kernels are set to one thread, so each caller computes on its own. All numbers of callers
answer as many texts, and take turns in one process. `processors` is how many the process had on average; with
fewer than callers, other programs had the rest. `texts/CPU s` is the throughput of one processor, whatever
else runs: callers that disturb each other lower it. `x PyTorch` is a ratio of these.
"""

import argparse
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from rich.progress import track
from transformers import BertConfig

from hf_sparse.benchmark.eager import Fuse, PyTorch
from hf_sparse.benchmark.inputs import Job, random_inputs
from hf_sparse.benchmark.latency import limited
from hf_sparse.runtime.bindings import load_kernels
from measuring import Timed, company, time_in_turns, write_results
from runtime import FIRST, build

CALLERS, TEXTS, TOKENS = (1, 2, 4), 8, 128
OWN, OTHER = "fused", "PyTorch"
PARTS = ("texts/s", "processors", "texts/CPU s")
COLUMNS = ("callers", *(f"{name}, {part}" for name in (OWN, OTHER) for part in PARTS), f"x {OTHER}")


def calls(answer: Callable[[], object], pools: Mapping[int, ThreadPoolExecutor]) -> dict[int, Callable]:
    """Return for each number of callers a function that answers all texts."""

    def with_pool(pool: ThreadPoolExecutor) -> Callable[[], None]:
        def call() -> None:
            for done in [pool.submit(answer) for _ in range(TEXTS)]:
                done.result()

        return call

    return {count: with_pool(pool) for count, pool in pools.items()}


def row_of(callers: int, timed: Mapping[str, Mapping[int, Timed]]) -> dict[str, object]:
    """Return the row of one number of callers."""
    row: dict[str, object] = {"callers": callers}
    for name, of in timed.items():
        one = of[callers]
        had = (cpu / wall for cpu, wall in zip(one.cpu, one.wall, strict=True))
        row[f"{name}, texts/s"] = round(1e3 * TEXTS / median(one.wall), 1)
        row[f"{name}, processors"] = round(median(had), 2)
        row[f"{name}, texts/CPU s"] = round(1e3 * TEXTS / median(one.cpu), 1)
    pairs = zip(timed[OTHER][callers].cpu, timed[OWN][callers].cpu, strict=True)
    row[f"x {OTHER}"] = round(median(slow / fast for slow, fast in pairs), 2)
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=12, help="Layers of the model; BERT-base has 12.")
    options = parser.parse_args()
    kernels = load_kernels()
    if kernels is None:
        raise RuntimeError("the kernels need a C++ compiler; install one")
    config = BertConfig(num_hidden_layers=options.layers, num_labels=2)
    with limited(1), ExitStack() as open_pools, TemporaryDirectory() as scratch:
        model = build(FIRST, {"input_ids": torch.full((1, TOKENS), 7)}, config=config)
        job = Job(model, random_inputs(model, 1, TOKENS), 1, Path(scratch))
        ready = {OWN: Fuse().prepare(job), OTHER: PyTorch().prepare(job)}
        pools = {count: open_pools.enter_context(ThreadPoolExecutor(count)) for count in CALLERS}
        every = {
            (name, count): call
            for name, one in ready.items()
            for count, call in calls(one.call, pools).items()
        }
        named = {f"{name}, {count}": call for (name, count), call in every.items()}
        turns = track(range(options.rounds), "Measuring")
        found = dict(zip(every, time_in_turns(named, turns).values(), strict=True))
        alone = {name: found[name, CALLERS[0]] for name in ready}
        walls = [(count, sum(one.wall)) for (_, count), one in found.items()]
        wanted = sum(count * wall for count, wall in walls) / sum(wall for _, wall in walls)
        busy = company(alone, 1, wanted)
    timed = {name: {count: found[name, count] for count in CALLERS} for name in ready}
    rows = [row_of(count, timed) for count in CALLERS]
    settings = {
        "model": f"BERT, {options.layers} layers, 768 wide, {FIRST}, random weights and masks",
        "batch x tokens": f"1 x {TOKENS}",
        "path": kernels.path,
        "threads of each caller": 1,
        "rounds": options.rounds,
        "machine": busy,
    }
    print(write_results("runtime_callers", "Callers of one model", rows, settings, COLUMNS))


if __name__ == "__main__":
    main()
