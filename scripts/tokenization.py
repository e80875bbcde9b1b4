"""Tokenizers of the example scripts, and the number of tokens of a text."""

import copy
import logging
from collections.abc import Callable

from accelerate import PartialState
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

import common
from hf_sparse import SparseArguments
from hf_sparse.data.positions import most_tokens

logger = logging.getLogger("hf_sparse.scripts")


def tokenize(
    rows: Dataset, function: Callable[..., dict], data: common.DataArguments, **options: object
) -> Dataset:
    """Apply a function from batches of texts to batches of tokens; its columns replace all others.

    `options` are those of `Dataset.map`.
    """
    with PartialState().main_process_first():
        return rows.map(
            function,
            batched=True,
            remove_columns=rows.column_names,
            num_proc=data.preprocessing_num_workers,
            desc="Tokenizing",
            **options,
        )


def load_tokenizer(model: common.ModelArguments) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the model, or the one given by `tokenizer_name`."""
    name = model.tokenizer_name or model.model_name_or_path
    if name is None:
        raise ValueError("no tokenizer is given; give --tokenizer_name or --model_name_or_path")
    return AutoTokenizer.from_pretrained(name, **model.where)


def for_both(
    tokenizer: PreTrainedTokenizerBase,
    model: common.ModelArguments,
    training: TrainingArguments,
    sparse: SparseArguments,
) -> PreTrainedTokenizerBase:
    """Return a tokenizer with `token_type_ids` if the teacher uses them and the student's has none.

    It is a copy: the student is saved with its own tokenizer, unchanged.
    """
    names, types = tokenizer.model_input_names, "token_type_ids"
    if sparse.teacher_name_or_path is None or not training.do_train or types in names:
        return tokenizer
    teacher = AutoConfig.from_pretrained(sparse.teacher_name_or_path, cache_dir=model.cache_dir)
    if getattr(teacher, "type_vocab_size", 0) < 2:
        return tokenizer
    both = copy.deepcopy(tokenizer)
    both.model_input_names = [*names, types]
    return both


def text_length(
    asked: int | None,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel | PreTrainedConfig,
    most: int,
) -> int:
    """Return the most tokens of a text: as asked, or `most`, but not more than the model takes."""
    limit = min(tokenizer.model_max_length, most_tokens(model) or tokenizer.model_max_length)
    if asked is not None and asked > limit:
        logger.warning(
            f"--max_seq_length {asked} is more than the {limit} tokens the model takes; using {limit}."
        )
    return min(limit, asked or most)
