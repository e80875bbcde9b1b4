"""Train a masked language model on any text, sparse or distilled as a recipe says.

    python scripts/run_mlm.py --model_name_or_path bert-base-uncased --dataset_name texts --do_train \\
        --recipe prune_ofa_90 --teacher_name_or_path bert-base-uncased --output_dir pruned

With `--sentence_pairs --next_sentence` the text is read as pairs of segments, and the model learns besides
which second ones follow the first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature

from datasets import Dataset, DatasetDict
from transformers import (
    MODEL_FOR_PRETRAINING_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    DataCollatorForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    default_data_collator,
)

import common
from hf_sparse import SparseTrainer
from hf_sparse.data.sentence_pairs import check_sentences, pair_encoder
from hf_sparse.metrics.masked import masked_accuracy, most_likely
from hf_sparse.metrics.pretraining import pretraining_scores, scored_pairs
from hf_sparse.trainers.pretraining import PreTrainingTrainer
from hf_sparse.training.mlm import EpochCallback, MaskedTokens, group_texts

# How many texts make a block, within which random second segments are drawn.
BLOCK = 1000


@dataclass
class MlmModelArguments(common.ModelArguments):
    """Which model is trained: one that exists, or a new one of some configuration."""

    model_type: str | None = field(default=None, metadata={"help": "for a new model, such as bert"})
    config_overrides: str | None = field(default=None, metadata={"help": "for a new model: hidden_size=128,"})


@dataclass
class MlmDataArguments(common.DataArguments):
    """Which text it sees, paired and masked how."""

    mlm_probability: float = field(default=0.15, metadata={"help": "share of the tokens to predict"})
    line_by_line: bool = field(default=False, metadata={"help": "a row is a text; else all rows are joined"})
    sentence_pairs: bool = field(
        default=False,
        metadata={"help": "two segments at a time: a text and its continuation, or another text"},
    )
    single_share: float = field(default=0.0, metadata={"help": "share of single segments among the pairs"})
    # The parser would want a value, as it does not of other booleans.
    next_sentence: bool | None = field(
        default=None,
        metadata={
            "help": "learn which second segments follow; by default if the model was saved with that head",
            "nargs": "?",
            "const": True,
        },
    )
    validation_split_percentage: int = field(default=5, metadata={"help": "of train, if it has to be split"})

    def __post_init__(self) -> None:
        if not self.sentence_pairs and (self.single_share or self.next_sentence):
            given = "--next_sentence" if self.next_sentence else f"--single_share {self.single_share}"
            raise ValueError(f"{given} is about pairs of segments; add --sentence_pairs, or leave it out")
        if self.sentence_pairs and self.line_by_line:
            raise ValueError(
                "--line_by_line and --sentence_pairs are two ways to read a row; leave one of them out"
            )
        if not 0 <= self.single_share < 1:
            raise ValueError(f"--single_share is a share in [0, 1), got {self.single_share}")
        if not 0 < self.validation_split_percentage < 100:
            raise ValueError(f"a percentage is between 0 and 100, got {self.validation_split_percentage}")


def load_model(
    model: MlmModelArguments,
    data: MlmDataArguments,
    tokenizer: PreTrainedTokenizerBase,
    training: TrainingArguments,
) -> PreTrainedModel:
    """Load a model, its head random if it has none, or make a new one."""
    if model.model_name_or_path is None:
        config = new_config(model, len(tokenizer))
        loaded = model_kind(config, data).from_config(config)
    elif model.config_overrides is not None:
        raise ValueError("--config_overrides is for new models; leave it or --model_name_or_path out")
    else:
        config = AutoConfig.from_pretrained(model.config_name or model.model_name_or_path, **model.where)
        loaded = common.load_model(model_kind(config, data), model, training, config=config)
    # A table larger than the vocabulary, padded to a round size, is left as it is.
    if len(tokenizer) > loaded.get_input_embeddings().num_embeddings:
        loaded.resize_token_embeddings(len(tokenizer))
    return loaded


def model_kind(config: PreTrainedConfig, data: MlmDataArguments) -> type:
    """Choose the auto class: the one for pre-training where next sentences are learned, too."""
    known = MODEL_FOR_PRETRAINING_MAPPING.get(type(config), None)
    possible = known is not None and learns_pairs(known)
    if data.next_sentence and not possible:
        raise ValueError(
            f"models of type {config.model_type!r} have no next-sentence head to train; leave "
            "--next_sentence out, which trains them on masked tokens of the pairs, or take one such as BERT"
        )
    saved = (config.architectures or ["none"])[0]
    default = data.sentence_pairs and possible and saved.endswith("ForPreTraining")
    wanted = default if data.next_sentence is None else data.next_sentence
    return AutoModelForPreTraining if wanted else AutoModelForMaskedLM


def learns_pairs(architecture: type[PreTrainedModel]) -> bool:
    """Tell whether a model has a next-sentence head."""
    return "next_sentence_label" in signature(architecture.forward).parameters


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


def text_column(rows: Dataset) -> str:
    return "text" if "text" in rows.column_names else rows.column_names[0]


def token_rows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, length: int, data: MlmDataArguments
) -> Dataset:
    """Tokenize texts: each by itself with `line_by_line`, else cut from one long text into equal blocks."""
    column = text_column(rows)

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


def pair_rows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, length: int, data: MlmDataArguments, seed: int
) -> Dataset:
    """Make pairs of segments from texts, each a row, as `pair_encoder` says, with its columns.

    The same from the same texts and seed, however many processes work: a block is `BLOCK` rows for all.
    """
    column = text_column(rows)
    check_sentences(rows[column])
    encode = pair_encoder(tokenizer, length, data.single_share, seed)

    def pairs(block: dict, number: list[int]) -> dict:
        examples = encode(block[column][0], number[0])
        if data.pad_to_max_length:
            examples = tokenizer.pad(examples, padding="max_length", max_length=length, verbose=False)
        return dict(examples)

    blocks = rows.select_columns(column).batch(BLOCK)
    return common.tokenize(blocks, pairs, data, batch_size=1, with_indices=True)


def masked_sets(
    splits: DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    data: MlmDataArguments,
    training: TrainingArguments,
    labelled: bool,
) -> dict[str, MaskedTokens]:
    """Make the train and validation sets; the latter is paired and masked the same in every run.

    Pairs keep the label of their second segment where they are to be `labelled`.
    """

    def read(split: str, limit: int | None, seed: int) -> Dataset:
        rows = common.take(splits, split)
        if not data.sentence_pairs:
            return common.first(token_rows(rows, tokenizer, length, data), limit)
        pairs = common.first(pair_rows(rows, tokenizer, length, data, seed), limit)
        return pairs if labelled else pairs.remove_columns("next_sentence_label")

    sets = {}
    if training.do_train:
        rows = read("train", data.max_train_samples, training.seed)
        sets["train_dataset"] = MaskedTokens(rows, tokenizer, data.mlm_probability, training.seed)
    if training.do_eval:
        rows = read("validation", data.max_eval_samples, seed=0)
        sets["eval_dataset"] = MaskedTokens(rows, tokenizer, data.mlm_probability, fixed=True)
    return sets


def main(argv: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    model_args, data, training, sparse = common.parse((MlmModelArguments, MlmDataArguments), argv)
    if training.do_predict:
        raise ValueError("there is no task to predict; leave --do_predict out, --do_eval scores the model")
    checkpoint = common.find_checkpoint(training)
    tokenizer = common.load_tokenizer(model_args)
    model = load_model(model_args, data, tokenizer, training)
    length = common.text_length(data.max_seq_length, tokenizer, model.config, most=512)

    splits = common.load_data(data, model_args)
    held_out = None
    if training.do_eval:
        share = f"the first {data.validation_split_percentage} % of train"
        held_out = "validation" if "validation" in splits else share
        splits = with_validation(splits, data.validation_split_percentage)
    ragged = (data.line_by_line or data.sentence_pairs) and not data.pad_to_max_length
    paired = learns_pairs(type(model))
    trainer = common.make_trainer(
        model,
        tokenizer,
        training,
        sparse,
        cache_dir=model_args.cache_dir,
        kind=PreTrainingTrainer if paired else SparseTrainer,
        **masked_sets(splits, tokenizer, length, data, training, labelled=paired),
        data_collator=DataCollatorForTokenClassification(tokenizer) if ragged else default_data_collator,
        compute_metrics=pretraining_scores if paired else masked_accuracy,
        preprocess_logits_for_metrics=scored_pairs if paired else most_likely,
        callbacks=[EpochCallback()],
    )
    trainer.facts |= common.facts(data, "fill-mask", held_out)
    sizes = common.train(trainer, checkpoint) if training.do_train else {}
    if training.do_eval:
        results = common.evaluate(trainer, {"": trainer.eval_dataset}) | sizes
        # With a next-sentence head, eval_loss is the sum of both; perplexity is of tokens alone.
        loss = results["eval_masked_loss" if paired else "eval_loss"]
        results["perplexity"] = math.exp(min(loss, 700))
        common.keep_results(trainer, "eval", results)
    common.hand_over(trainer)


if __name__ == "__main__":
    main()
