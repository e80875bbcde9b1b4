"""The run of a trainer: training, evaluation, and the files in the output directory."""

import logging
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset
from rich.console import Console

from hf_sparse import SparseTrainer, find_targets, measure_sparsity
from hf_sparse.checkpoint.compressed_tensors import save_compressed
from hf_sparse.checkpoint.packed.model import save_packed
from hf_sparse.checkpoint.saved_files import weight_bytes
from hf_sparse.report.sizes import size_table

logger = logging.getLogger("hf_sparse.scripts")


def train(trainer: SparseTrainer, checkpoint: str | None) -> dict[str, float]:
    """Train, write the model and its results into the output directory; return the sizes of `write_small`."""
    results = trainer.train(resume_from_checkpoint=checkpoint).metrics
    results["train_samples"] = len(trainer.train_dataset)
    # As Trainer calls it, so that nothing is pushed before the model is evaluated.
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    sizes = write_small(trainer) if trainer.quantizer is not None and trainer.is_world_process_zero() else {}
    keep_results(trainer, "train", results | sizes)
    return sizes


def write_small(trainer: SparseTrainer) -> dict[str, float]:
    """Write a quantized model in both small formats, beside the plain one; print and return its sizes."""
    model, tokenizer, sizes = trainer.model, trainer.processing_class, {}
    packed, compressed = (Path(trainer.args.output_dir) / name for name in ("packed", "compressed-tensors"))
    try:
        measured = save_packed(model, packed)
        tokenizer.save_pretrained(packed)
        Console().print(size_table(measured))
        sizes = {"packed_bytes": measured.file_bytes, "packed_ratio": measured.ratio}
        sizes |= {"encoder_ratio": measured.encoder_ratio, "counted_ratio": measured.counted_ratio}
    except ValueError as error:
        logger.warning(f"No packed model: {error}.")
    try:
        save_compressed(model, compressed, tokenizer)
        sizes["compressed_tensors_bytes"] = weight_bytes(str(compressed))
    except (ImportError, ValueError) as error:
        logger.warning(f"No compressed-tensors model: {error}.")
    return sizes


def evaluate(trainer: SparseTrainer, sets: Mapping[str, Dataset]) -> dict[str, float]:
    """Evaluate on each set; the key of a set is appended to the names of its scores."""
    results = {}
    for ending, rows in sets.items():
        scores = trainer.evaluate(rows) | {"eval_samples": len(rows)}
        results |= {name + ending: score for name, score in scores.items()}
    return results


def hand_over(trainer: SparseTrainer) -> None:
    """Write the card of a trained model, and push both if the arguments say so."""
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    elif trainer.args.do_train:
        trainer.create_model_card()


def keep_results(trainer: SparseTrainer, name: str, results: dict[str, float]) -> dict[str, float]:
    """Print results with the sparsity and write them to `{name}_results.json` and `all_results.json`."""
    results = results | sparsity(trainer)
    trainer.log_metrics(name, results)
    trainer.save_metrics(name, results)
    return results


def sparsity(trainer: SparseTrainer) -> dict[str, float]:
    """Return the share of zeros in the weights that the recipe names; log a warning if there are none."""
    chosen = trainer.recipe.sparsity
    try:
        targets = find_targets(trainer.model, *([chosen.include, chosen.exclude] if chosen else []))
    except ValueError as error:
        logger.warning(f"No sparsity to report: {error}")
        return {}
    return {"sparsity": measure_sparsity(trainer.model, targets).overall}
