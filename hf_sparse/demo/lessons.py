"""The two things a model of the demo learns: the language, the task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch.utils.data import Dataset
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from hf_sparse.demo.settings import Plan
from hf_sparse.demo.sources import Examples, Sources
from hf_sparse.metrics.pretraining import masked_accuracy
from hf_sparse.training.mlm import EpochCallback, MaskedTokens, group_texts


@dataclass(frozen=True)
class Lesson:
    """Something to learn: how its model is loaded, what it reads, how it is scored."""

    name: str
    load: Callable[[str | Path], PreTrainedModel]
    train: Sequence | Dataset
    validation: Sequence | Dataset
    collate: Callable
    score: Callable[[EvalPrediction], dict[str, float]]
    callbacks: tuple[type, ...] = ()
    sampling: str = "random"


def language_lesson(sources: Sources, tokenizer: PreTrainedTokenizerBase, plan: Plan, seed: int) -> Lesson:
    """Make masked language modelling of the running text, in blocks of `plan.length` tokens."""
    train = _blocks(sources.texts, tokenizer, plan.length)
    validation = _blocks(sources.held_out_texts, tokenizer, plan.length)
    return Lesson(
        name="language",
        load=AutoModelForMaskedLM.from_pretrained,
        train=MaskedTokens(train, tokenizer, seed=seed),
        validation=MaskedTokens(validation, tokenizer, fixed=True),
        collate=default_data_collator,
        score=masked_accuracy,
        callbacks=(EpochCallback,),
    )


def task_lesson(sources: Sources, tokenizer: PreTrainedTokenizerBase, plan: Plan) -> Lesson:
    """Make the classification of texts, cut after `plan.length` tokens."""
    names = dict(enumerate(sources.names))
    load = partial(
        AutoModelForSequenceClassification.from_pretrained,
        num_labels=len(names),
        id2label=names,
        label2id={name: number for number, name in names.items()},
        ignore_mismatched_sizes=True,
    )
    return Lesson(
        name="task",
        load=load,
        train=_encoded(sources.train, tokenizer, plan.length),
        validation=_encoded(sources.validation, tokenizer, plan.length),
        collate=DataCollatorWithPadding(tokenizer),
        score=masked_accuracy,
        sampling="group_by_length",
    )


def new_model(tokenizer: PreTrainedTokenizerBase, plan: Plan) -> BertForMaskedLM:
    """Make a small BERT with random weights."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden,
        num_hidden_layers=plan.layers,
        num_attention_heads=max(1, plan.hidden // 32),
        intermediate_size=4 * plan.hidden,
        max_position_embeddings=max(plan.length, 2),
    )
    return BertForMaskedLM(config)


def _blocks(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> list[dict[str, list[int]]]:
    # A tokenizer cannot take an empty list.
    tokens = (
        tokenizer(list(texts), return_special_tokens_mask=True, verbose=False) if texts else {"input_ids": []}
    )
    columns = group_texts(dict(tokens), length)
    count = len(columns["input_ids"])
    if not count:
        raise ValueError(
            f"the text to learn from or the text held out has less than one block of {length} tokens; "
            "give more with --text"
        )
    return [{name: rows[row] for name, rows in columns.items()} for row in range(count)]


def _encoded(examples: Examples, tokenizer: PreTrainedTokenizerBase, length: int) -> list[dict[str, object]]:
    columns = dict(tokenizer(*examples.texts, truncation=True, max_length=length))
    return [
        {name: rows[row] for name, rows in columns.items()} | {"labels": label}
        for row, label in enumerate(examples.labels)
    ]
