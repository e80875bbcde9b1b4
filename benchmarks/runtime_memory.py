"""Load time and memory of a packed BERT-base in the CPU runtime, and growth over a million calls.

Each figure comes from a process of its own. Memory is the resident memory beyond that after importing the
packages; while loading that includes the bytes of the file.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from hf_sparse import save_packed
from hf_sparse.checkpoint.packed.packed_file import PACKED
from hf_sparse.runtime import load
from hf_sparse.runtime.autotune import pack_layer
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.integer_layer import FIXED, IntegerLayer
from hf_sparse.runtime.linear import RuntimeLinear
from measuring import write_results
from runtime import FIRST, build

LENGTH, LOADS, CALLS = 128, 5, 1_000_000
MEGABYTE = 1e6


def resident(kind: str = "VmRSS") -> float:
    """Return the resident megabytes of this process now, or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{kind}:"))
    return int(line.split()[1]) * 1024 / MEGABYTE


def model(directory: str, batch: int) -> dict[str, float]:
    """Load a packed model and run it."""
    # Imports are not counted.
    load_kernels()
    before = resident()
    loaded = load(directory)
    inputs = {"input_ids": torch.randint(5, 30_000, (batch, LENGTH))}
    with torch.inference_mode():
        for _ in range(3):
            loaded(**inputs)
    packed = loaded.bert.encoder.nbytes / MEGABYTE
    rest = sum(value.nbytes for value in (*loaded.parameters(), *loaded.buffers())) / MEGABYTE
    return {
        "file MB": Path(directory, PACKED).stat().st_size / MEGABYTE,
        "packed encoder MB": packed,
        "embeddings and head MB": rest,
        "beyond these MB": resident() - before - packed - rest,
        "beyond these, while loading MB": resident("VmHWM") - before - packed - rest,
    }


def loads(directory: str) -> dict[str, float]:
    """Load a packed model several times."""
    load_kernels()
    seconds, busy = [], []
    for _ in range(LOADS):
        begin, had = time.perf_counter(), time.process_time()
        load(directory)
        busy.append(time.process_time() - had)
        seconds.append(time.perf_counter() - begin)
        gc.collect()
    return {"first load s": seconds[0], "load s": median(seconds[1:]), "load CPU s": median(busy[1:])}


def calls() -> dict[str, float]:
    """Call a small layer a million times."""
    codes = torch.randint(-127, 128, (64, 64), dtype=torch.int8)
    kernels = load_kernels()
    layer = RuntimeLinear(
        kernels, pack_layer(kernels, IntegerLayer(codes, torch.ones(64), None, FIXED, 0.1, 9))
    )
    inputs = torch.randn(1, 64)
    for _ in range(1000):
        layer(inputs)
    before, begin = resident(), time.perf_counter()
    for _ in range(CALLS):
        layer(inputs)
    taken = time.perf_counter() - begin
    return {"microseconds a call": taken / CALLS * 1e6, "growth MB": resident() - before}


def apart(*arguments: str) -> dict[str, float]:
    """Run a part of this script in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--part", nargs="+", help="Part of one process (used by the script itself).")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part:
        name, *rest = options.part
        parts = {"calls": calls, "loads": loads, "model": lambda path, batch: model(path, int(batch))}
        print(json.dumps(parts[name](*rest)))
        return
    threads = ["--threads", str(options.threads)]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for pattern, embeddings in (
            (FIRST, None),
            (FIRST, "int8_per_channel"),
            ("unstructured at 90 %", "int8_per_channel"),
        ):
            inputs = {"input_ids": torch.randint(5, 30_000, (1, LENGTH))}
            directory = f"{scratch}/{pattern}, {embeddings}"
            save_packed(build(pattern, inputs, embeddings), directory)
            seconds = apart(*threads, "--part", "loads", directory)
            for batch in (1, 8):
                found = apart(*threads, "--part", "model", directory, str(batch)) | seconds
                name = f"{pattern}, embeddings {'int8' if embeddings else 'float32'}"
                rows.append({"model": name, "batch": batch, **{k: round(v, 2) for k, v in found.items()}})
                print(rows[-1], flush=True)
    many = apart(*threads, "--part", "calls")
    settings = {
        "model": "BERT-base for classification, random weights and masks",
        "tokens": LENGTH,
        "threads": options.threads,
        "a million calls of a layer of 64 x 64": {name: round(value, 2) for name, value in many.items()},
        "bars": "64 MB beyond, while loading beyond the file as well; 0.5 s",
    }
    print(write_results("runtime_memory", "The CPU runtime in memory", rows, settings, list(rows[0])))


if __name__ == "__main__":
    main()
