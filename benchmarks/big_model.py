"""Memory and time of one mask update of a decoder of 1 B weights, and of a mixture with experts, in bf16."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaModel, MixtralConfig, MixtralModel, PreTrainedModel

from hf_sparse import find_targets
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.mask_update import grow
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.targets import Targets
from measuring import write_results

# Wide, deep, and the width of the feed-forward layers.
_DECODER = {"hidden_size": 2048, "num_hidden_layers": 18, "intermediate_size": 5632}
_MIXTURE = {"hidden_size": 1024, "num_hidden_layers": 8, "intermediate_size": 2816}
_HEADS = {"num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32000}
MODELS = ("decoder", "mixture of 8 experts")
CASES = [
    (pattern, allocation)
    for pattern in ("unstructured", "4x4", "2:4")
    for allocation in ("uniform", "global")
]
BAR = 0.05
# The share of the layers that is compared with an earlier release.
SMALL = 0.12


def build(name: str, scale: float) -> PreTrainedModel:
    """Return a model with random weights in bf16, filled a parameter at a time, without a copy in float32."""
    shape = _DECODER if name == MODELS[0] else _MIXTURE
    layers = max(round(shape["num_hidden_layers"] * scale), 1)
    options = {**_HEADS, **shape, "num_hidden_layers": layers}
    with torch.device("meta"):
        model = LlamaModel(LlamaConfig(**options)) if name == MODELS[0] else _mixture(options)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model


def _mixture(options: dict[str, int]) -> PreTrainedModel:
    return MixtralModel(MixtralConfig(**options, num_local_experts=8))


def first_masks(targets: Targets) -> Masks:
    """Return masks that are stored already, with the first 4 x 4 weights of each removed."""
    masks = Masks(targets)
    for target in targets:
        keep = torch.ones(target.shape, dtype=torch.bool)
        keep[:4, :2] = False
        target.weight.detach()[:4, :4] = 0
        masks.set(target.name, keep)
    return masks


def measure(model: str, scale: float) -> list[dict[str, object]]:
    """Measure all cases in this process; memory is what the system counts as resident."""
    targets = find_targets(build(model, scale))
    size = sum(target.weight.nbytes for target in targets)
    rows = []
    for pattern, allocation in CASES:
        layout = Layout(targets, parse_pattern(pattern), allocation, least=0.01)
        masks = first_masks(targets)
        before = reset_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        grow(masks, layout.budgets(lambda final: 0.5), METHODS["magnitude"].score, layout.blocks)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        extra = peak() - before
        rows.append(
            {
                "model": model,
                "weights": sum(target.weight.numel() for target in targets),
                "pattern": pattern,
                "allocation": allocation,
                "extra MB": round(extra / 1e6, 1),
                "share of the weights": round(extra / size, 4),
                "seconds": round(wall, 2),
                "CPU seconds": round(cpu, 2),
                "mask bytes a weight": round(masks.nbytes / size * 2, 4),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def reset_peak() -> int:
    """Let the system forget the peak of this process's memory; return what is resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def peak() -> int:
    """Return the most bytes that were resident since `reset_peak`."""
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


def compare(here: Path, before: Path, model: str) -> list[dict[str, object]]:
    """Return memory and CPU time of an earlier release at a part of the size, in turns."""
    now, former = (run(tree, model, SMALL) for tree in (here, before))
    return [
        {
            "share before": old["share of the weights"],
            "CPU seconds, now / before": round(float(new["CPU seconds"]) / float(old["CPU seconds"]), 2),
        }
        for new, old in zip(now, former, strict=True)
    ]


def run(tree: Path, model: str, scale: float) -> list[dict[str, object]]:
    """Measure in a process of its own with the package in a directory."""
    command = [sys.executable, str(Path(__file__).resolve()), "--model", model, "--scale", str(scale)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        # Fixed: large blocks go back to the system at once, so that each case begins alike.
        "MALLOC_MMAP_THRESHOLD_": "131072",
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, help="measure this model here, and print")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the layers, to try it out")
    parser.add_argument("--before", type=Path, help="directory of an earlier release, to compare with")
    options = parser.parse_args()
    if options.model:
        measure(options.model, options.scale)
        return
    here, rows = Path(__file__).resolve().parents[1], []
    for model in MODELS:
        now = run(here, model, options.scale)
        compared = [{}] * len(now) if options.before is None else compare(here, options.before, model)
        for row, beside in zip(now, compared, strict=True):
            rows.append({**row, "bar": BAR, **beside})
            print(rows[-1])
    settings = {
        "dtype": "bfloat16",
        "update": "0 to 50 %",
        "threads": torch.get_num_threads(),
        "compared at": SMALL,
    }
    command = "python benchmarks/big_model.py" + (" --before EARLIER" if options.before else "")
    columns = [key for key in rows[0] if key != "mask bytes a weight"]
    settings |= {"mask bytes a weight": rows[0]["mask bytes a weight"]}
    print(write_results("big_model", "One mask update of a large model", rows, settings, columns, command))


if __name__ == "__main__":
    main()
