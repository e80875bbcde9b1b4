"""Text without labels: read as blocks, lines, or pairs of segments."""

from dataclasses import dataclass, field
from functools import partial

from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase, TrainingArguments

import common
import tokenization
from hf_sparse.data.sentence_pairs import check_sentences, pair_encoder
from hf_sparse.data.texts import text_columns
from hf_sparse.training.mlm import group_texts

# Texts in a block; random second segments are drawn within it.
BLOCK = 1000


@dataclass
class TextArguments(common.DataArguments):
    """Text to read and its form."""

    line_by_line: bool = field(
        default=False, metadata={"help": "Take each row as a text; by default all rows are joined and cut."}
    )
    sentence_pairs: bool = field(
        default=False,
        metadata={"help": "Read two segments at a time: a text and its continuation, or another text."},
    )
    single_share: float = field(default=0.0, metadata={"help": "Share of single segments among the pairs."})
    validation_split_percentage: int = field(
        default=5, metadata={"help": "Percentage of train that is held out if a validation split is missing."}
    )

    def __post_init__(self) -> None:
        if not self.sentence_pairs and self.single_share:
            raise ValueError(
                f"--single_share {self.single_share} needs pairs of segments; add --sentence_pairs, or "
                "leave it out"
            )
        if self.sentence_pairs and self.line_by_line:
            raise ValueError(
                "--line_by_line and --sentence_pairs are two ways to read a row; leave one of them out"
            )
        if not 0 <= self.single_share < 1:
            raise ValueError(f"--single_share is a share in [0, 1), got {self.single_share}")
        if not 0 < self.validation_split_percentage < 100:
            raise ValueError(f"a percentage is between 0 and 100, got {self.validation_split_percentage}")

    @property
    def ragged(self) -> bool:
        """Return whether rows differ in length, so that batches are padded."""
        return (self.line_by_line or self.sentence_pairs) and not self.pad_to_max_length


def hold_out(
    splits: DatasetDict, data: TextArguments, training: TrainingArguments
) -> tuple[DatasetDict, str | None]:
    """Return splits with validation, the first rows of train if there is none, and the name of that split."""
    if not training.do_eval:
        return splits, None
    if "validation" in splits or "train" not in splits:
        return splits, "validation"
    rows = splits["train"]
    part = max(1, len(rows) * data.validation_split_percentage // 100)
    parts = DatasetDict(train=rows.select(range(part, len(rows))), validation=rows.select(range(part)))
    return parts, f"the first {data.validation_split_percentage} % of train"


def read(
    splits: DatasetDict,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    data: TextArguments,
    training: TrainingArguments,
) -> Dataset:
    """Return a split, tokenized in the form asked for, with at most the rows asked for.

    Validation is the same in every run, whatever its seed.
    """
    rows, limit, seed = common.take(splits, split), data.max_train_samples, training.seed
    if split != "train":
        limit, seed = data.max_eval_samples, 0
    if data.sentence_pairs:
        return common.first(pair_rows(rows, tokenizer, length, data, seed), limit)
    return common.first(token_rows(rows, tokenizer, length, data), limit)


def text_column(rows: Dataset) -> str:
    column = "text" if "text" in rows.column_names else rows.column_names[0]
    return text_columns(rows, chosen=[column])[0]


def token_rows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, length: int, data: TextArguments
) -> Dataset:
    """Tokenize texts: each by itself with `line_by_line`, else all joined and cut into equal blocks."""
    column = text_column(rows)

    def lines(batch: dict) -> dict:
        texts = [text for text in batch[column] if text and not text.isspace()]
        padding = "max_length" if data.pad_to_max_length else False
        cut = {"truncation": True, "max_length": length, "padding": padding} if data.line_by_line else {}
        return dict(tokenizer(texts, return_special_tokens_mask=True, **cut))

    tokens = tokenization.tokenize(rows, lines, data)
    if not data.line_by_line:
        tokens = tokenization.tokenize(tokens, partial(group_texts, block_length=length), data)
    if not len(tokens):
        raise ValueError(f"{column!r} lacks a block of {length} tokens; lower --max_seq_length")
    return tokens


def pair_rows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, length: int, data: TextArguments, seed: int
) -> Dataset:
    """Return pairs of segments, one a row, with the columns of `pair_encoder`.

    The result depends on texts and seed alone, not on the number of processes: a block has `BLOCK` rows.
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
    return tokenization.tokenize(blocks, pairs, data, batch_size=1, with_indices=True)
