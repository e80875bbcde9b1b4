"""Time of a decoder's step in the CPU runtime: one token after a prompt, beside PyTorch.

The model has the shape of a small Llama with random weights and masks, since the time does not depend on
their values. Models take turns in one process; times are those of the process on one thread, ratios are
medians over the rounds. `all Linears` are the layers that the runtime replaces, called alone one by one.
"""

import argparse
import copy
from collections.abc import Callable
from statistics import median

import torch
from rich.progress import track
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from hf_sparse import find_targets
from hf_sparse.benchmark.eager import held_bytes
from hf_sparse.benchmark.latency import limited
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime import optimize
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.linear import RuntimeLinear
from measuring import company, instructions, time_in_turns, write_results

CONFIG = {
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "tie_word_embeddings": True,
}
# Rows and columns of a block, share of zeros; None stands for two of every four adjacent weights.
PATTERNS = {
    "dense": (1, 1, 0.0),
    "unstructured at 50 %": (1, 1, 0.5),
    "2:4": None,
    "unstructured at 90 %": (1, 1, 0.9),
    "4x4 at 90 %": (4, 4, 0.9),
}
OTHERS = {"PyTorch": torch.float32, "PyTorch bfloat16": torch.bfloat16}
BARS = {"unstructured at 50 %": 2, "2:4": 2, "unstructured at 90 %": 4, "4x4 at 90 %": 4}
STEP, ALONE = "a step, ms", "all Linears, ms"
RATIOS = [f"{part}, x {name}" for part in ("step", "Linears") for name in OTHERS]
COLUMNS = ("model", STEP, ALONE, *RATIOS, "bar, x", "weights MB")
PROMPT = 64


def build(pattern: tuple[int, int, float] | None) -> LlamaForCausalLM:
    """Return the decoder with a random mask of a pattern."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval()
    for target in find_targets(model):
        rows, columns = target.weight.shape
        if pattern is None:
            order = torch.rand(rows, columns // 4, 4).argsort(-1)
            kept = (order < 2).reshape(rows, columns)
        else:
            tall, wide, zeros = pattern
            drawn = torch.rand(rows // tall, columns // wide)
            # As many as asked for, and not about as many: a layer with fewer than half zeros stays as it is.
            kept = drawn.flatten().argsort().argsort().view_as(drawn) >= zeros * drawn.numel()
            kept = kept.repeat_interleave(tall, 0).repeat_interleave(wide, 1)
        with torch.no_grad():
            target.weight.mul_(kept)
    return model


def steps(model: LlamaForCausalLM) -> Callable[[], None]:
    """Return a function that computes one more token after a prompt."""
    prompt = torch.randint(0, CONFIG["vocab_size"], (1, PROMPT), generator=torch.Generator().manual_seed(1))
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(prompt, past_key_values=cache)

    def step() -> None:
        with torch.inference_mode():
            model(prompt[:, :1], past_key_values=cache)
            cache.crop(-1)

    return step


def linears(model: LlamaForCausalLM) -> Callable[[], None]:
    """Return a function that calls each Linear of the layers once with one token."""
    kinds = (torch.nn.Linear, RuntimeLinear)
    layers = [module for module in model.model.modules() if isinstance(module, kinds)]
    inputs = [torch.randn(1, layer.in_features, dtype=model.dtype) for layer in layers]

    def call() -> None:
        with torch.inference_mode():
            for layer, values in zip(layers, inputs, strict=True):
                layer(values)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    kernels = load_kernels()
    if kernels is None:
        raise RuntimeError("the kernels need a C++ compiler; install one")
    with limited(1):
        own, dense = {}, build(PATTERNS["dense"])
        for name, pattern in PATTERNS.items():
            model = build(pattern)
            if name == "dense":
                calibrate(model, [{"input_ids": torch.arange(PROMPT)[None]}])
            own[name] = optimize(model)
        others = {name: copy.deepcopy(dense).to(dtype) for name, dtype in OTHERS.items()}
        timed = {
            f"{name}, {what}": make(model)
            for name, model in (own | others).items()
            for what, make in ((STEP, steps), (ALONE, linears))
        }
        taken = time_in_turns(timed, track(range(options.rounds), "Generating"))
        busy = company(taken, 1)
    rows = []
    for name, model in (own | others).items():
        row: dict[str, object] = {"model": name, "bar, x": BARS.get(name)}
        for part, what in (("step", STEP), ("Linears", ALONE)):
            row[what] = round(median(taken[f"{name}, {what}"].cpu), 2)
            for other in OTHERS if name in own else ():
                pairs = zip(taken[f"{other}, {what}"].cpu, taken[f"{name}, {what}"].cpu, strict=True)
                row[f"{part}, x {other}"] = round(median(slow / fast for slow, fast in pairs), 2)
        row["weights MB"] = round(held_bytes(model) / 1e6, 1)
        rows.append(row)
        print(row, flush=True)
    settings = {
        "model": "decoder of 12 layers, 768 wide, 2,048 inside, 8,192 tied words, random weights and masks",
        "prompt": PROMPT,
        "path": kernels.path,
        "spreads bytes": bool(kernels.library.hf_sparse_spreads_bytes()),
        "threads": 1,
        "rounds": options.rounds,
        "machine": busy,
    }
    name = f"runtime_generation_{instructions()}"
    print(write_results(name, "A decoder's step in the CPU runtime", rows, settings, COLUMNS))


if __name__ == "__main__":
    main()
