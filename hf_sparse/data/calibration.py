"""Load calibration texts and turn them into batches of model inputs."""

from collections.abc import Collection, Iterator, Sequence
from math import ceil
from pathlib import Path

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_sparse.data.files import load_splits
from hf_sparse.data.texts import text_columns


def load_texts(data: str, chosen: Sequence[str] = (), samples: int = 256) -> list[tuple[str, ...]]:
    """Draw texts from the split `train` of a data set, or from its first split; always the same texts.

    Args:
        data: A file, a directory of files, or a data set on the Hub.
        chosen: One or two text columns; by default those that `text_columns` guesses.
        samples: The largest number of texts.

    Returns:
        Texts of one or two parts each, one part for each column. Empty texts are left out.

    Raises:
        ValueError: The data holds no text, or `samples` is below 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be above 0, got {samples}")
    splits = load_splits(files={"train": data}) if Path(data).is_file() else load_splits(data)
    rows: Dataset = splits["train"] if "train" in splits else next(iter(splits.values()))
    columns = text_columns(rows, chosen=chosen)
    texts = []
    for row in rows.select_columns(list(columns)).shuffle(seed=0):
        parts = tuple(row[column] or "" for column in columns)
        if any(part.strip() for part in parts):
            texts.append(parts)
        if len(texts) == samples:
            break
    if not texts:
        raise ValueError(
            f"{data} holds no text in {' and '.join(columns)}; give texts like those of the task"
        )
    return texts


class TextBatches:
    """Batches of tokenized texts, truncated to a number of tokens.

    A tokenizer without a padding token gives batches of one text.

    Args:
        texts: Texts of one or two parts each.
        tokenizer: The model's tokenizer.
        accepted: Names of the inputs to keep, as the model's forward pass takes them.
        batch_size: Texts in a batch.
        max_length: Tokens in a text, special ones included.

    Raises:
        ValueError: A size is below 1, or `max_length` leaves no room beside the special tokens.
    """

    def __init__(
        self,
        texts: Sequence[tuple[str, ...]],
        tokenizer: PreTrainedTokenizerBase,
        accepted: Collection[str],
        batch_size: int = 16,
        max_length: int = 128,
    ) -> None:
        for name, value in {"batch_size": batch_size, "max_length": max_length}.items():
            if value < 1:
                raise ValueError(f"{name} must be above 0, got {value}")
        special = tokenizer.num_special_tokens_to_add(pair=any(len(parts) > 1 for parts in texts))
        if max_length <= special:
            raise ValueError(
                f"max_length {max_length} leaves no room for text beside {special} special tokens; raise it"
            )
        self.texts, self.tokenizer, self.accepted = texts, tokenizer, accepted
        self.max_length = min(max_length, tokenizer.model_max_length)
        self.batch_size = 1 if tokenizer.pad_token is None else batch_size

    def __len__(self) -> int:
        return ceil(len(self.texts) / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for first in range(0, len(self.texts), self.batch_size):
            parts = zip(*self.texts[first : first + self.batch_size], strict=True)
            inputs = self.tokenizer(
                *map(list, parts),
                truncation=True,
                max_length=self.max_length,
                padding=self.batch_size > 1,
                return_tensors="pt",
            )
            yield {name: value for name, value in inputs.items() if name in self.accepted}
