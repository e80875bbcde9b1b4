"""What the example scripts share: their arguments, their data, the run from training to results."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset, DatasetDict
from rich.console import Console
from transformers import (
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from hf_sparse import SparseArguments, SparseTrainer, find_targets, measure_sparsity
from hf_sparse.checkpoint.compressed_tensors import save_compressed
from hf_sparse.checkpoint.loading import weight_bytes
from hf_sparse.checkpoint.packed import save_packed
from hf_sparse.data.files import load_splits
from hf_sparse.distillation.teacher import load_teacher
from hf_sparse.report.sizes import size_table
from hf_sparse.training.loading import requantize
from hf_sparse.training.recipe_arguments import given_arguments, read_recipe_arguments

logger = logging.getLogger("hf_sparse.scripts")


@dataclass
class ModelArguments:
    """Which model is trained."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub name or directory of the model"}
    )
    config_name: str | None = field(default=None, metadata={"help": "configuration, if not the model's"})
    tokenizer_name: str | None = field(default=None, metadata={"help": "tokenizer, if not the model's"})
    cache_dir: str | None = field(
        default=None, metadata={"help": "where downloads and prepared data are kept"}
    )
    model_revision: str = field(default="main", metadata={"help": "branch, tag or commit on the Hub"})

    @property
    def where(self) -> dict[str, str | None]:
        return {"cache_dir": self.cache_dir, "revision": self.model_revision}


@dataclass
class DataArguments:
    """Which data it sees."""

    dataset_name: str | None = field(default=None, metadata={"help": "directory of data files, or Hub name"})
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "configuration of a Hub data set"}
    )
    train_file: str | None = field(default=None, metadata={"help": "parquet, csv, json, jsonl or txt file"})
    validation_file: str | None = field(default=None, metadata={"help": "the same for evaluation"})
    max_seq_length: int | None = field(default=None, metadata={"help": "tokens of a text, the rest is cut"})
    pad_to_max_length: bool = field(
        default=False, metadata={"help": "pad to that length, not to the batch's"}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "use the first so many rows only"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "the same for evaluation"})
    preprocessing_num_workers: int | None = field(default=None, metadata={"help": "processes that tokenize"})

    @property
    def files(self) -> dict[str, str]:
        named = {"train": self.train_file, "validation": self.validation_file}
        return {split: path for split, path in named.items() if path is not None}


def parse(kinds: Sequence[type], argv: Sequence[str] | None, task: str) -> tuple[object, ...]:
    """Read the command line, or the one JSON or YAML file it names; set up logging with the seed.

    Answers one object of each of `kinds`, then the training arguments, then the sparse ones. Where these ask
    for them, arguments published for this `task` are the defaults.
    """
    parser = HfArgumentParser((*kinds, TrainingArguments, SparseArguments))
    given = given_arguments(parser, sys.argv[1:] if argv is None else argv)
    published = None
    if given.get("recipe_arguments"):
        published = read_recipe_arguments(given.get("recipe"), task)
    parsed = parser.parse_dict((published.leave(given) if published else {}) | given)
    training, sparse = parsed[-2:]
    if not (training.do_train or training.do_eval or training.do_predict):
        raise ValueError("nothing to do; give --do_train, --do_eval or --do_predict")
    # A bad recipe is refused here rather than after the data has been prepared.
    sparse.build_recipe()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hf_sparse").setLevel(logging.INFO if training.should_log else logging.WARNING)
    if published is not None:
        published.share_batch(training, given)
        logger.info(published.describe(training, given))
    set_seed(training.seed)
    return parsed


def find_checkpoint(training: TrainingArguments) -> str | None:
    """Choose the checkpoint to go on from, refusing to train over a finished model that has none."""
    directory, asked = Path(training.output_dir), training.resume_from_checkpoint
    if not training.do_train or (asked is not None and asked.lower() != "true"):
        return asked
    last = get_last_checkpoint(str(directory)) if directory.is_dir() else None
    if last is not None:
        logger.info(f"Going on from {last}; to start anew, choose another --output_dir or delete this one.")
    elif asked is not None:
        raise ValueError(f"{directory} has no checkpoint to resume from; leave --resume_from_checkpoint out")
    elif (directory / "config.json").exists():
        raise ValueError(
            f"{directory} holds a model but no checkpoint to go on from; choose another --output_dir"
        )
    return last


def load_data(data: DataArguments, model: ModelArguments) -> DatasetDict:
    """Load every split of the data asked for."""
    return load_splits(data.dataset_name, data.dataset_config_name, data.files, model.cache_dir)


def facts(data: DataArguments, task: str, split: str | None = None) -> dict[str, str]:
    """Say in words of the Hub which task was learnt from which data, for the record of the run.

    A data set of the Hub goes by its name, one that lies here by the name of its directory or its files.
    """
    named, files = data.dataset_name, dict.fromkeys(Path(path).name for path in data.files.values())
    if named is not None and Path(named).exists():
        named = Path(named).resolve().name
    found = {"task": task, "dataset": named or ", ".join(files), "config": data.dataset_config_name}
    return {name: value for name, value in (found | {"split": split}).items() if value}


def take(splits: DatasetDict, split: str) -> Dataset:
    """Take one split, refusing with what there is instead."""
    if split not in splits:
        raise ValueError(
            f"the data has no split {split!r}, only {list(splits)}; give --{split}_file or other data"
        )
    return splits[split]


def first(rows: Dataset, limit: int | None) -> Dataset:
    """Take the first `limit` rows, or all."""
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def tokenize(rows: Dataset, function: Callable[[dict], dict], data: DataArguments) -> Dataset:
    """Apply a function from batches of texts to batches of tokens; its columns replace all others."""
    with PartialState().main_process_first():
        return rows.map(
            function,
            batched=True,
            remove_columns=rows.column_names,
            num_proc=data.preprocessing_num_workers,
            desc="Tokenizing",
        )


def load_tokenizer(model: ModelArguments) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the model, or the one named for itself."""
    name = model.tokenizer_name or model.model_name_or_path
    if name is None:
        raise ValueError("there is no tokenizer; give --tokenizer_name or --model_name_or_path")
    return AutoTokenizer.from_pretrained(name, **model.where)


def load_model(
    kind: type, model: ModelArguments, training: TrainingArguments, **others: object
) -> PreTrainedModel:
    """Load a model as an auto class does; unless it is trained, it rounds as it did when it was saved."""
    loaded = kind.from_pretrained(model.model_name_or_path, **model.where, **others)
    if not training.do_train:
        requantize(loaded, model.model_name_or_path, **model.where)
    return loaded


def text_length(
    asked: int | None, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, most: int
) -> int:
    """Answer how many tokens a text may have: as asked or `most`, within what the model can take."""
    limit = min(
        tokenizer.model_max_length, getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    )
    if asked is not None and asked > limit:
        logger.warning(
            f"--max_seq_length {asked} is more than the {limit} tokens the model takes; using {limit}."
        )
    return min(limit, asked or most)


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    training: TrainingArguments,
    sparse: SparseArguments,
    cache_dir: str | None,
    kind: type[SparseTrainer] = SparseTrainer,
    **others: object,
) -> SparseTrainer:
    """Make the trainer that the sparse arguments describe, teacher included; `others` are for its `kind`."""
    teacher, recipe = None, sparse.build_recipe() if training.do_train else None
    if sparse.teacher_name_or_path is not None and training.do_train:
        teacher = load_teacher(sparse.teacher_name_or_path, model, tokenizer, cache_dir=cache_dir)
    return kind(
        model=model,
        args=training,
        processing_class=tokenizer,
        recipe=recipe,
        teacher=teacher,
        allow_schedule_change=sparse.allow_schedule_change,
        **others,
    )


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
