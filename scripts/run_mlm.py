"""Train a masked language model on any text, sparse or distilled as a recipe says.

    python scripts/run_mlm.py --model_name_or_path bert-base-uncased --dataset_name texts --do_train \\
        --recipe prune_ofa_90 --teacher_name_or_path bert-base-uncased --output_dir pruned
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    DataCollatorForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    default_data_collator,
)

import common
from hf_sparse.metrics.masked import masked_accuracy, most_likely
from hf_sparse.training.mlm import EpochCallback, MaskedTokens, group_texts

TASK = "fill-mask"


@dataclass
class MlmModelArguments(common.ModelArguments):
    """Which model is trained: one that exists, or a new one of some configuration."""

    model_type: str | None = field(default=None, metadata={"help": "for a new model, such as bert"})
    config_overrides: str | None = field(default=None, metadata={"help": "for a new model: hidden_size=128,"})


@dataclass
class MlmDataArguments(common.DataArguments):
    """Which text it sees, masked how."""

    mlm_probability: float = field(default=0.15, metadata={"help": "share of the tokens to predict"})
    line_by_line: bool = field(default=False, metadata={"help": "a row is a text; else all rows are joined"})
    validation_split_percentage: int = field(default=5, metadata={"help": "of train, if it has to be split"})

    def __post_init__(self) -> None:
        if not 0 < self.validation_split_percentage < 100:
            raise ValueError(f"a percentage is between 0 and 100, got {self.validation_split_percentage}")


def load_model(
    model: MlmModelArguments, tokenizer: PreTrainedTokenizerBase, training: TrainingArguments
) -> PreTrainedModel:
    """Load a model, its head random if it has none, or make a new one."""
    if model.model_name_or_path is None:
        loaded = AutoModelForMaskedLM.from_config(new_config(model, len(tokenizer)))
    elif model.config_overrides is not None:
        raise ValueError("--config_overrides is for new models; leave it or --model_name_or_path out")
    else:
        config = AutoConfig.from_pretrained(model.config_name or model.model_name_or_path, **model.where)
        loaded = common.load_model(AutoModelForMaskedLM, model, training, config=config)
    # A table larger than the vocabulary, padded to a round size, is left as it is.
    if len(tokenizer) > loaded.get_input_embeddings().num_embeddings:
        loaded.resize_token_embeddings(len(tokenizer))
    return loaded


def new_config(model: MlmModelArguments, vocabulary: int) -> PreTrainedConfig:
    """Make the configuration of a new model."""
    if model.config_name is not None:
        config = AutoConfig.from_pretrained(model.config_name, **model.where)
    elif model.model_type is not None:
        config = AutoConfig.for_model(model.model_type, vocab_size=vocabulary)
    else:
        raise ValueError("there is no model; give --model_name_or_path, or --model_type for a new one")
    if model.config_overrides is not None:
        config.update_from_string(model.config_overrides)
    return config


def with_validation(splits: DatasetDict, percentage: int) -> DatasetDict:
    """Set the first rows of train apart for validation, if there is no such split."""
    if "validation" in splits or "train" not in splits:
        return splits
    rows = splits["train"]
    part = max(1, len(rows) * percentage // 100)
    return DatasetDict(train=rows.select(range(part, len(rows))), validation=rows.select(range(part)))


def token_rows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, length: int, data: MlmDataArguments
) -> Dataset:
    """Tokenize texts: each by itself with `line_by_line`, else cut from one long text into equal blocks."""
    column = "text" if "text" in rows.column_names else rows.column_names[0]

    def lines(batch: dict) -> dict:
        texts = [text for text in batch[column] if text and not text.isspace()]
        padding = "max_length" if data.pad_to_max_length else False
        cut = {"truncation": True, "max_length": length, "padding": padding} if data.line_by_line else {}
        return dict(tokenizer(texts, return_special_tokens_mask=True, **cut))

    tokens = common.tokenize(rows, lines, data)
    if not data.line_by_line:
        tokens = common.tokenize(tokens, partial(group_texts, block_length=length), data)
    if not len(tokens):
        raise ValueError(f"{column!r} has no block of {length} tokens; lower --max_seq_length")
    return tokens


def masked_sets(
    splits: DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    data: MlmDataArguments,
    training: TrainingArguments,
) -> dict[str, MaskedTokens]:
    """Make the train and validation sets; the latter is masked the same in every evaluation of every run."""
    sets = {}
    if training.do_train:
        rows = token_rows(common.take(splits, "train"), tokenizer, length, data)
        rows = common.first(rows, data.max_train_samples)
        sets["train_dataset"] = MaskedTokens(rows, tokenizer, data.mlm_probability, training.seed)
    if training.do_eval:
        rows = token_rows(common.take(splits, "validation"), tokenizer, length, data)
        rows = common.first(rows, data.max_eval_samples)
        sets["eval_dataset"] = MaskedTokens(rows, tokenizer, data.mlm_probability, fixed=True)
    return sets


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    model_args, data, training, sparse = common.parse((MlmModelArguments, MlmDataArguments), argv, TASK)
    if training.do_predict:
        raise ValueError("there is no task to predict; leave --do_predict out, --do_eval scores the model")
    checkpoint = common.find_checkpoint(training)
    tokenizer = common.load_tokenizer(model_args)
    model = load_model(model_args, tokenizer, training)
    length = common.text_length(data.max_seq_length, tokenizer, model.config, most=512)

    splits = common.load_data(data, model_args)
    held_out = None
    if training.do_eval:
        share = f"the first {data.validation_split_percentage} % of train"
        held_out = "validation" if "validation" in splits else share
        splits = with_validation(splits, data.validation_split_percentage)
    ragged = data.line_by_line and not data.pad_to_max_length
    trainer = common.make_trainer(
        model,
        tokenizer,
        training,
        sparse,
        cache_dir=model_args.cache_dir,
        **masked_sets(splits, tokenizer, length, data, training),
        data_collator=DataCollatorForTokenClassification(tokenizer) if ragged else default_data_collator,
        compute_metrics=masked_accuracy,
        preprocess_logits_for_metrics=most_likely,
        callbacks=[EpochCallback()],
    )
    trainer.facts |= common.facts(data, TASK, held_out)
    sizes = common.train(trainer, checkpoint) if training.do_train else {}
    if training.do_eval:
        results = common.evaluate(trainer, {"": trainer.eval_dataset}) | sizes
        results["perplexity"] = math.exp(min(results["eval_loss"], 700))
        common.keep_results(trainer, "eval", results)
    common.hand_over(trainer)


if __name__ == "__main__":
    main()
