"""Latency of each family of encoders that `fuse` takes, at a published shape, beside other runtimes.

Weights and masks are random, since the time does not depend on their values. The models of a family take
turns in one process, with two calls in a row, of which the second counts. A dash is where a runtime could not
export or convert the model.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedModel

from hf_sparse import find_targets
from hf_sparse.benchmark.backends import OnnxRuntime, OpenVino
from hf_sparse.benchmark.eager import Fuse, PyTorch
from hf_sparse.benchmark.inputs import Job
from hf_sparse.benchmark.latency import Prepared, limited
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime.bindings import load_kernels
from measuring import Timed, company, time_in_turns, write_results

LENGTH, SPARSITY, BLOCK = 128, 0.9, 4
# Where the configuration differs from the defaults of transformers, which are those of a published model.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT-base": ("bert", {}),
    "ModernBERT-base": ("modernbert", {}),
    "XLM-RoBERTa-base": ("xlm-roberta", {"vocab_size": 250_002, "max_position_embeddings": 514}),
    "ALBERT-base-v2": (
        "albert",
        {
            "hidden_size": 768,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "hidden_act": "gelu",
        },
    ),
    "MPNet-base": ("mpnet", {"max_position_embeddings": 514}),
    "DeBERTa-v3-base": (
        "deberta-v2",
        {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "NomicBERT-base": ("nomic_bert", {}),
    "GTE-base": ("gte", {}),
    "EuroBERT-210m": ("eurobert", {"intermediate_size": 3072}),
    "ViT-base": ("vit", {}),
}
OTHERS = ("OpenVINO int8", "ONNX Runtime int8", "PyTorch")
COLUMNS = ("model", "batch x tokens", "ms", "CPU ms", *(f"x {name}" for name in OTHERS), "weights MB")


def build(kind: str, settings: Mapping[str, Any]) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """Return a model with a random mask, quantized to 8 bits, and its inputs: one text, or one picture."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **settings)).eval()
    for target in find_targets(model):
        rows, columns = target.weight.shape
        kept = torch.rand(rows // BLOCK, columns // BLOCK, generator=generator) >= SPARSITY
        with torch.no_grad():
            target.weight.mul_(kept.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1))
    if model.main_input_name == "pixel_values":
        size = model.config.image_size
        inputs = {"pixel_values": torch.randn(1, 3, size, size, generator=generator)}
    else:
        tokens = torch.randint(4, model.config.vocab_size, (1, LENGTH), generator=generator)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones(1, LENGTH, dtype=torch.long)}
    calibrate(model, [inputs])
    return model, inputs


def prepared(job: Job, name: str) -> dict[str, Prepared]:
    """Return the model in each runtime that takes it."""
    # ONNX Runtime rounds weights and inputs its own way, and is faster so than with fixed ranges.
    plain = Job(job.plain, job.inputs, job.threads, job.scratch)
    makers = {
        name: lambda: Fuse().prepare(job),
        OTHERS[0]: lambda: OpenVino("int8").prepare(job),
        OTHERS[1]: lambda: OnnxRuntime("int8").prepare(plain),
        OTHERS[2]: lambda: PyTorch().prepare(job),
    }
    found = {}
    for runtime, make in makers.items():
        try:
            model = make()
            model.call()
        # Exporters raise errors of many classes.
        except Exception as error:  # noqa: BLE001
            if runtime == name:
                raise
            print(f"{name}, {runtime}: {str(error).splitlines()[0] if str(error) else error!r}", flush=True)
        else:
            found[runtime] = model
    return found


def row_of(
    name: str, ready: Mapping[str, Prepared], timed: Mapping[str, Timed], tokens: int
) -> dict[str, Any]:
    """Return the row of one family; ratios are those of CPU time."""
    own = timed[name]
    row: dict[str, Any] = {"model": name, "batch x tokens": f"1 x {tokens}"}
    row["ms"], row["CPU ms"] = round(median(own.wall), 1), round(median(own.cpu), 1)
    for other in OTHERS:
        if other in timed:
            ratios = (slow / fast for slow, fast in zip(timed[other].cpu, own.cpu, strict=True))
            row[f"x {other}"] = round(median(ratios), 2)
            row[f"{other} CPU ms"] = round(median(timed[other].cpu), 1)
    row["weights MB"] = round(ready[name].weight_bytes / 1e6, 1)
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--isa", help="Instructions that oneDNN may use at most, such as AVX512_CORE_VNNI.")
    options = parser.parse_args()
    if options.isa:
        # oneDNN reads it at its first use.
        os.environ["ONEDNN_MAX_CPU_ISA"] = options.isa
    kernels = load_kernels()
    if kernels is None:
        raise RuntimeError("the kernels need a C++ compiler; install one")
    rows, busy = [], {}
    for name in options.models:
        kind, settings = SHAPES[name]
        if kind not in CONFIG_MAPPING:
            print(f"{name}: this transformers has no such model", flush=True)
            continue
        with tempfile.TemporaryDirectory() as scratch, limited(1):
            model, inputs = build(kind, settings)
            ready = prepared(Job(model, inputs, 1, Path(scratch)), name)
            turns = track(range(options.rounds), name)
            timed = time_in_turns({runtime: one.call for runtime, one in ready.items()}, turns)
            tokens = ready[name].call().shape[1]
            rows.append(row_of(name, ready, timed, tokens))
            busy[name] = company(timed, 1)
    settings = {
        "model": "random weights and masks, without a head",
        "pattern": f"{BLOCK}x{BLOCK} at {SPARSITY:.0%}",
        "path": kernels.path,
        "threads": 1,
        "ratios of": "CPU time",
        "oneDNN": options.isa or "all instructions",
        "machine": busy,
        "rounds": options.rounds,
    }
    print(write_results("runtime_families", "Families of encoders", rows, settings, COLUMNS))


if __name__ == "__main__":
    main()
