"""Where the time of the fused encoder goes: BERT-base, 4x4 blocks at 90 %, one text of 128 tokens.

Parts are differences of whole runs, without instrumentation: an encoder of zeros computes everything except
products with weights; on 16 texts of 8 tokens it computes a sixteenth of the attention; and the whole model
adds embeddings and head.
"""

import time
from collections.abc import Callable

import torch

from hf_sparse.benchmark.inputs import random_inputs
from hf_sparse.benchmark.latency import limited
from hf_sparse.runtime import fuse
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.targets import find_targets
from measuring import write_results
from runtime import FIRST, build

TEXTS, TOKENS, ROUNDS = 16, 128, 40


def least(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the least milliseconds of each call, measured in turns."""
    found = dict.fromkeys(calls, float("inf"))
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, call in calls.items():
                begin = time.perf_counter()
                call()
                found[name] = min(found[name], (time.perf_counter() - begin) * 1e3)
    return found


def main() -> None:
    kernels = load_kernels()
    if kernels is None:
        raise RuntimeError("the kernels need a C++ compiler; install one")
    model, empty = (build(FIRST, {"input_ids": torch.full((1, TOKENS), 7)}) for _ in range(2))
    inputs = random_inputs(model, 1, TOKENS)
    for target in find_targets(empty):
        torch.nn.init.zeros_(target.weight)
    with limited(1):
        fuse(model), fuse(empty)
        long = torch.randn(1, TOKENS, model.config.hidden_size)
        short = long.view(TEXTS, TOKENS // TEXTS, -1)
        took = least(
            {
                "all": lambda: model(**inputs),
                "encoder": lambda: model.bert.encoder(long),
                "empty": lambda: empty.bert.encoder(long),
                "short": lambda: empty.bert.encoder(short),
            }
        )
    attention = (took["empty"] - took["short"]) * TEXTS / (TEXTS - 1)
    parts = {
        "products with weights": took["encoder"] - took["empty"],
        "attention": attention,
        "activation, LayerNorm, rounding": took["empty"] - attention,
        "embeddings, pooler, classifier (PyTorch)": took["all"] - took["encoder"],
        "all": took["all"],
    }
    rows = [
        {"part": name, "ms": round(ms, 1), "share": f"{ms / took['all']:.0%}"} for name, ms in parts.items()
    ]
    for row in rows:
        print(row, flush=True)
    settings = {"model": FIRST, "tokens": TOKENS, "path": kernels.path, "threads": 1, "least of": ROUNDS}
    print(write_results("runtime_parts", "Where the time goes", rows, settings, list(rows[0])))


if __name__ == "__main__":
    main()
