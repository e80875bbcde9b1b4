"""Shared by the example scripts: arguments, data, model and trainer."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from datasets import Dataset, DatasetDict
from transformers import (
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

import speed
from hf_sparse import SparseArguments, SparseTrainer
from hf_sparse.checkpoint.load import requantize
from hf_sparse.cli.options import OLD_OPTIONS_OF_SCRIPTS, with_new_keys, with_new_options
from hf_sparse.data.files import load_splits
from hf_sparse.distillation.teacher import load_teacher
from hf_sparse.recipe.published_arguments import given_arguments, read_recipe_arguments
from hf_sparse.training.mlm import EpochCallback, MaskedTokens
from hf_sparse.training.model_options import freeze, set_dropout

logger = logging.getLogger("hf_sparse.scripts")


@dataclass
class ModelArguments:
    """Model to train and how to load it."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model to train: Hub name or directory."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Configuration, if it is not the model's: Hub name or directory."}
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "Tokenizer, if it is not saved with the model: Hub name or directory."},
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Directory for downloads and prepared data."}
    )
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of the model on the Hub."}
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "Attention: eager, sdpa or another; by default what trains fastest here."},
    )
    freeze: list[str] = field(
        default_factory=list,
        metadata={"help": "Do not train parameters whose name contains one of these, such as embeddings."},
    )
    dropout: float | None = field(
        default=None,
        metadata={"help": "Probability of every dropout of the model, such as 0; saved with the model."},
    )

    @property
    def where(self) -> dict[str, str | None]:
        return {"cache_dir": self.cache_dir, "revision": self.model_revision}


@dataclass
class DataArguments:
    """Data to train and evaluate on."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset: Hub name, or directory of files."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the Hub dataset, such as sst2."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "Training data: parquet, csv, json, jsonl or txt file."}
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Evaluation data: a file of the same kinds as train_file."}
    )
    max_seq_length: int | None = field(
        default=None, metadata={"help": "Tokens of each text: longer ones are cut."}
    )
    pad_to_max_length: bool = field(
        default=False,
        metadata={"help": "Pad every text to max_seq_length, instead of to the longest text of its batch."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Number of rows to train on: the first ones. By default all."}
    )
    max_tokens: int | None = field(
        default=None,
        metadata={"help": "Number of tokens to train on, which gives the number of steps."},
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Number of rows to evaluate on: the first ones. By default all."}
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Number of processes that tokenize the data."}
    )

    @property
    def files(self) -> dict[str, str]:
        named = {"train": self.train_file, "validation": self.validation_file}
        return {split: path for split, path in named.items() if path is not None}


@dataclass
class ScriptArguments(SparseArguments):
    """Recipe and teacher of a run, and whether to take the training arguments of the recipe's paper."""

    recipe_arguments: bool = field(
        default=False,
        metadata={
            "help": "Take learning rate, batch size, epochs, warm-up and weight decay from the values "
            "published with the preset; arguments given here take precedence."
        },
    )


def parse(kinds: Sequence[type], argv: Sequence[str] | None, task: str) -> tuple[object, ...]:
    """Read the command line, or the one JSON or YAML file it names; set up logging and the seed.

    Returns one object of each of `kinds`, then the training arguments, then the sparse ones. Defaults are
    what is fast on this machine and, if the sparse arguments ask for them, the values published for `task`.
    """
    parser = HfArgumentParser((*kinds, TrainingArguments, ScriptArguments))
    words = with_new_options(sys.argv[1:] if argv is None else argv, OLD_OPTIONS_OF_SCRIPTS)
    given = with_new_keys(given_arguments(parser, list(words)), OLD_OPTIONS_OF_SCRIPTS)
    # A bad recipe is refused before the data is prepared.
    names = {part.name for part in fields(SparseArguments)} & given.keys()
    recipe = SparseArguments(**{name: given[name] for name in names}).build_recipe()
    check_length(given)
    published = None
    if given.get("recipe_arguments"):
        published = read_recipe_arguments(given.get("recipe"), task)
    defaults = speed.defaults(recipe, given) | (published.leave(given) if published else {})
    parsed = parser.parse_dict(defaults | given)
    training = parsed[-2]
    if not (training.do_train or training.do_eval or training.do_predict):
        raise ValueError("nothing to do; give --do_train, --do_eval or --do_predict")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hf_sparse").setLevel(logging.INFO if training.should_log else logging.WARNING)
    if published is not None:
        published.share_batch(training, given)
        logger.info(published.describe(training, given))
    speed.use_machine(training)
    set_seed(training.seed)
    return parsed


def check_length(given: Mapping[str, object]) -> None:
    """Raise `ValueError` if `max_tokens` is below 1, or if another argument gives the length of the run."""
    tokens = given.get("max_tokens")
    if tokens is None:
        return
    if tokens < 1:
        raise ValueError(f"--max_tokens is at least 1, got {tokens}")
    if others := {"max_steps", "num_train_epochs"} & given.keys():
        raise ValueError(
            f"--max_tokens {tokens} and --{min(others)} both give the length of the run; leave one out"
        )


def find_checkpoint(training: TrainingArguments) -> str | None:
    """Return the checkpoint to resume from; refuse to train over a finished model without checkpoints."""
    directory, asked = Path(training.output_dir), training.resume_from_checkpoint
    if not training.do_train or (asked is not None and asked.lower() != "true"):
        return asked
    last = get_last_checkpoint(str(directory)) if directory.is_dir() else None
    if last is not None:
        logger.info(f"Going on from {last}; to start again, choose another --output_dir or delete this one.")
    elif asked is not None:
        raise ValueError(f"{directory} lacks a checkpoint to resume from; leave --resume_from_checkpoint out")
    elif (directory / "config.json").exists():
        raise ValueError(
            f"{directory} holds a model but no checkpoint to go on from; choose another --output_dir"
        )
    return last


def load_data(data: DataArguments, model: ModelArguments) -> DatasetDict:
    """Load all splits of the dataset."""
    return load_splits(data.dataset_name, data.dataset_config_name, data.files, model.cache_dir)


def facts(data: DataArguments, task: str, split: str | None = None) -> dict[str, str]:
    """Return task, dataset and configuration in the Hub's words, for the record of the run.

    A dataset of the Hub is named by its Hub name, a local one by the name of its directory or its files.
    """
    named, files = data.dataset_name, dict.fromkeys(Path(path).name for path in data.files.values())
    if named is not None and Path(named).exists():
        named = Path(named).resolve().name
    found = {"task": task, "dataset": named or ", ".join(files), "config": data.dataset_config_name}
    return {name: value for name, value in (found | {"split": split}).items() if value}


def take(splits: DatasetDict, split: str) -> Dataset:
    """Return one split; raise `ValueError` naming the splits there are if it is missing."""
    if split not in splits:
        raise ValueError(
            f"the data lacks a split {split!r} and has {list(splits)}; give --{split}_file or other data"
        )
    return splits[split]


def first(rows: Dataset, limit: int | None) -> Dataset:
    """Return the first `limit` rows, or all of them for None."""
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def load_model(
    kind: type,
    model: ModelArguments,
    training: TrainingArguments,
    config: PreTrainedConfig,
    **others: object,
) -> PreTrainedModel:
    """Load a model by an auto class, or make a new one, with the dropout asked for.

    For training, the parameters named by `freeze` are frozen. Otherwise a quantized model gets back the
    quantization that it was saved with.
    """
    if model.dropout is not None:
        set_dropout(config, model.dropout)
    attention = speed.attention(model.attn_implementation, training)
    if model.model_name_or_path is None:
        loaded = kind.from_config(config, attn_implementation=attention)
    else:
        loaded = kind.from_pretrained(
            model.model_name_or_path, config=config, attn_implementation=attention, **model.where, **others
        )
        if not training.do_train:
            requantize(loaded, model.model_name_or_path, **model.where)
    if training.do_train and model.freeze:
        logger.info(f"{freeze(loaded, model.freeze):,} of {loaded.num_parameters():,} weights are frozen.")
    return loaded


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    training: TrainingArguments,
    sparse: SparseArguments,
    source: ModelArguments,
    max_tokens: int | None,
    kind: type[SparseTrainer] = SparseTrainer,
    train_dataset: Dataset | MaskedTokens | None = None,
    **others: object,
) -> SparseTrainer:
    """Make the trainer of class `kind`, with recipe and teacher; `others` go to its constructor."""
    teacher, recipe = None, sparse.build_recipe() if training.do_train else None
    if sparse.teacher_name_or_path is not None and training.do_train:
        teacher = load_teacher(
            sparse.teacher_name_or_path,
            model,
            tokenizer,
            cache_dir=source.cache_dir,
            attn_implementation=speed.attention(source.attn_implementation, training),
        )
    return kind(
        model=model,
        args=training,
        processing_class=tokenizer,
        recipe=recipe,
        teacher=teacher,
        allow_schedule_change=sparse.allow_schedule_change,
        train_dataset=speed.arrange(train_dataset, training, max_tokens),
        callbacks=[EpochCallback()],
        **others,
    )
