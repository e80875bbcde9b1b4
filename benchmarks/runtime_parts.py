"""Where the time of the fused encoder goes: BERT-base, 4x4 blocks at 90 %, one text of 128 tokens.

Parts are differences of whole runs, without instrumentation: an encoder of zeros computes everything except
products with weights; on eight texts of 16 tokens, which fill whole vectors on every path, it computes an
eighth of the products of attention and its softmax; and the whole model adds embeddings and head. Times are
those that the process had a processor, and each difference is the median of those of single rounds.
"""

from statistics import median

import torch

from hf_sparse.benchmark.inputs import random_inputs
from hf_sparse.benchmark.latency import limited
from hf_sparse.runtime import fuse
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.targets import find_targets
from measuring import company, time_in_turns, write_results
from runtime import FIRST, build

TEXTS, TOKENS, ROUNDS = 8, 128, 60


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
        timed = time_in_turns(
            {
                "all": lambda: model(**inputs),
                "encoder": lambda: model.bert.encoder(long),
                "empty": lambda: empty.bert.encoder(long),
                "short": lambda: empty.bert.encoder(short),
            },
            range(ROUNDS),
        )
    rounds = list(zip(*(one.cpu for one in timed.values()), strict=True))
    attention = median((nothing - apart) * TEXTS / (TEXTS - 1) for _, _, nothing, apart in rounds)
    whole = median(everything for everything, *_ in rounds)
    parts = {
        "products with weights": median(encoder - nothing for _, encoder, nothing, _ in rounds),
        "attention": attention,
        "activation, LayerNorm, rounding": median(nothing for *_, nothing, _ in rounds) - attention,
        "embeddings, pooler, classifier (PyTorch)": median(most - encoder for most, encoder, *_ in rounds),
        "all": whole,
    }
    rows = [{"part": name, "ms": round(ms, 1), "share": f"{ms / whole:.0%}"} for name, ms in parts.items()]
    for row in rows:
        print(row, flush=True)
    settings = {"model": FIRST, "tokens": TOKENS, "path": kernels.path, "threads": 1}
    settings |= {"time": f"of the processor, median of {ROUNDS}", "machine": company(timed, 1)}
    print(write_results("runtime_parts", "Where the time goes", rows, settings, list(rows[0])))


if __name__ == "__main__":
    main()
