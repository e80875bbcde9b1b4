"""The two tasks that models of the demo learn: to guess masked words, and to classify texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from hf_sparse.demo.settings import Plan
from hf_sparse.demo.sources import Examples, Sources
from hf_sparse.metrics.pretrain import masked_accuracy
from hf_sparse.training.mlm import EpochCallback, MaskedTokens, group_texts


class Rows(Protocol):
    """Tokenized examples, each a mapping of columns to values, by their number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Task:
    """A task: how to load a model for it, its data, how to score an evaluation.

    `load` takes a directory or a Hub name, `collate` makes a batch of rows, `sampling` is a value of
    `TrainingArguments.train_sampling_strategy`.
    """

    name: str
    load: Callable[[str | Path], PreTrainedModel]
    train: Rows
    validation: Rows
    collate: Callable[[list[Any]], dict[str, Tensor]]
    score: Callable[[EvalPrediction], dict[str, float]]
    callbacks: tuple[type, ...] = ()
    sampling: str = "random"


def language_task(sources: Sources, tokenizer: PreTrainedTokenizerBase, plan: Plan, seed: int) -> Task:
    """Return masked language modeling of the running text, in blocks of `plan.length` tokens."""
    train = _blocks(sources.texts, tokenizer, plan.length)
    validation = _blocks(sources.held_out_texts, tokenizer, plan.length)
    return Task(
        name="language",
        load=AutoModelForMaskedLM.from_pretrained,
        train=MaskedTokens(train, tokenizer, seed=seed),
        validation=MaskedTokens(validation, tokenizer, fixed=True),
        collate=default_data_collator,
        score=masked_accuracy,
        callbacks=(EpochCallback,),
    )


def classification_task(sources: Sources, tokenizer: PreTrainedTokenizerBase, plan: Plan) -> Task:
    """Return the classification of texts, cut after `plan.length` tokens."""
    names = dict(enumerate(sources.names))
    load = partial(
        AutoModelForSequenceClassification.from_pretrained,
        num_labels=len(names),
        id2label=names,
        label2id={name: number for number, name in names.items()},
        ignore_mismatched_sizes=True,
    )
    return Task(
        name="task",
        load=load,
        train=_encoded(sources.train, tokenizer, plan.length),
        validation=_encoded(sources.validation, tokenizer, plan.length),
        collate=DataCollatorWithPadding(tokenizer),
        score=masked_accuracy,
        sampling="group_by_length",
    )


def _blocks(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> list[dict[str, list[int]]]:
    # Tokenizers refuse an empty list.
    tokens = (
        tokenizer(list(texts), return_special_tokens_mask=True, verbose=False) if texts else {"input_ids": []}
    )
    columns = group_texts(dict(tokens), length)
    count = len(columns["input_ids"])
    if not count:
        raise ValueError(
            f"the training text or the held-out text has less than one block of {length} tokens; "
            "give more with --text"
        )
    return [{name: rows[row] for name, rows in columns.items()} for row in range(count)]


def _encoded(examples: Examples, tokenizer: PreTrainedTokenizerBase, length: int) -> list[dict[str, object]]:
    columns = dict(tokenizer(*examples.texts, truncation=True, max_length=length))
    return [
        {name: rows[row] for name, rows in columns.items()} | {"labels": label}
        for row, label in enumerate(examples.labels)
    ]
