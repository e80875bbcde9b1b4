"""What happens once there is a trainer: training, evaluating, and what is left in the output directory."""

import logging
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset
from rich.console import Console

from hf_sparse import SparseTrainer, find_targets, measure_sparsity
from hf_sparse.checkpoint.compressed_tensors import save_compressed
from hf_sparse.checkpoint.packed import save_packed
from hf_sparse.checkpoint.saved_files import weight_bytes
from hf_sparse.report.sizes import size_table

logger = logging.getLogger("hf_sparse.scripts")


def train(trainer: SparseTrainer, checkpoint: str | None) -> dict[str, float]:
    """Train, leave the model with its results in the output directory; answer what `publish` does."""
    results = trainer.train(resume_from_checkpoint=checkpoint).metrics
    results["train_samples"] = len(trainer.train_dataset)
    # As Trainer itself calls it: there is nothing to push before the model has been evaluated.
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    sizes = publish(trainer) if trainer.quantizer is not None and trainer.is_world_process_zero() else {}
    keep_results(trainer, "train", results | sizes)
    return sizes


def publish(trainer: SparseTrainer) -> dict[str, float]:
    """Write a quantized model in the formats to publish it in, beside the plain one; print, answer sizes."""
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
    """Evaluate on each set; its name is the ending of its scores' names."""
    results = {}
    for ending, rows in sets.items():
        scores = trainer.evaluate(rows) | {"eval_samples": len(rows)}
        results |= {name + ending: score for name, score in scores.items()}
    return results


def hand_over(trainer: SparseTrainer) -> None:
    """Write the card of a trained model, and push both where the arguments say so."""
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    elif trainer.args.do_train:
        trainer.create_model_card()


def keep_results(trainer: SparseTrainer, name: str, results: dict[str, float]) -> dict[str, float]:
    """Print results with the sparsity, write them to `{name}_results.json` beside `all_results.json`."""
    results = results | sparsity(trainer)
    trainer.log_metrics(name, results)
    trainer.save_metrics(name, results)
    return results


def sparsity(trainer: SparseTrainer) -> dict[str, float]:
    """Measure the share of zeros in the weights that the recipe means; without such weights say so."""
    chosen = trainer.recipe.sparsity
    try:
        targets = find_targets(trainer.model, *([chosen.include, chosen.exclude] if chosen else []))
    except ValueError as error:
        logger.warning(f"No sparsity to report: {error}")
        return {}
    return {"sparsity": measure_sparsity(trainer.model, targets).overall}
