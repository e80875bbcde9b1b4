"""What the example scripts share: their arguments, their data, the run from training to results."""

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
from hf_sparse.checkpoint.loading import requantize
from hf_sparse.data.files import load_splits
from hf_sparse.distillation.teacher import load_teacher
from hf_sparse.training.dropout import set_dropout
from hf_sparse.training.freeze import freeze
from hf_sparse.training.mlm import EpochCallback, MaskedTokens
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
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa or another; by default what trains fastest here"}
    )
    freeze: list[str] = field(
        default_factory=list,
        metadata={"help": "do not train parameters with any of these in their name, such as embeddings"},
    )
    dropout: float | None = field(
        default=None, metadata={"help": "every dropout of the model, such as 0; saved with it"}
    )

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
    max_tokens: int | None = field(
        default=None, metadata={"help": "train for as many steps as see about so many tokens"}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "the same for evaluation"})
    preprocessing_num_workers: int | None = field(default=None, metadata={"help": "processes that tokenize"})

    @property
    def files(self) -> dict[str, str]:
        named = {"train": self.train_file, "validation": self.validation_file}
        return {split: path for split, path in named.items() if path is not None}


@dataclass
class ScriptArguments(SparseArguments):
    """Recipe and teacher of a run, and whether the training arguments of its paper come along."""

    recipe_arguments: bool = field(
        default=False,
        metadata={
            "help": "Take learning rate, batch, epochs, warm-up and decay from what is published beside the "
            "preset; what is given here as well wins."
        },
    )


def parse(kinds: Sequence[type], argv: Sequence[str] | None, task: str) -> tuple[object, ...]:
    """Read the command line, or the one JSON or YAML file it names; set up logging with the seed.

    Answers one object of each of `kinds`, then the training arguments, then the sparse ones. Defaults are
    what is fast on this machine; where the sparse arguments ask for them, those published for this `task`.
    """
    parser = HfArgumentParser((*kinds, TrainingArguments, ScriptArguments))
    given = given_arguments(parser, sys.argv[1:] if argv is None else argv)
    # A bad recipe is refused here rather than after the data has been prepared.
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
    """Raise `ValueError` where a budget in tokens is none, or not the only word on the length of a run."""
    tokens = given.get("max_tokens")
    if tokens is None:
        return
    if tokens < 1:
        raise ValueError(f"--max_tokens counts tokens from 1, got {tokens}")
    if others := {"max_steps", "num_train_epochs"} & given.keys():
        raise ValueError(
            f"--max_tokens {tokens} says how long to train, and so does --{min(others)}; leave one out"
        )


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


def load_model(
    kind: type,
    model: ModelArguments,
    training: TrainingArguments,
    config: PreTrainedConfig,
    **others: object,
) -> PreTrainedModel:
    """Load a model as an auto class does, or make a new one, with the dropout that is asked for.

    In training it leaves as they are what is to be frozen; else it rounds as it did when it was saved.
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
    """Make the trainer that the sparse arguments describe, teacher included; `others` are for its `kind`."""
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
