"""Masked language modeling whose masks are a pure function of seed, epoch, example index."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

IGNORED = -100  # the label that torch's cross entropy skips

# Shares of the chosen tokens; the rest stays as it is (Devlin et al. 2018, arXiv:1810.04805).
MASKED, RANDOM = 0.8, 0.1


class Rows(Protocol):
    """Tokenized examples: a `datasets.Dataset`, a list of dicts."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Sequence[int]]: ...


class MaskedTokens(Dataset):
    """Examples with masked tokens to predict: other ones in every epoch, the same ones in a resumed run.

    80 % of the chosen tokens become the mask token, 10 % a random token, 10 % stay (Devlin et al. 2018,
    arXiv:1810.04805, section 3.1). Special tokens and padding are never chosen. Items hold int64 arrays
    (tokens,); `labels` are -100 except at chosen tokens, and a `next_sentence_label` stays as it is. A
    training set needs an `EpochCallback` in its trainer.

    Args:
        examples: Rows with `input_ids`; they may have `attention_mask`, `token_type_ids` and
            `special_tokens_mask`, without which the tokenizer's special tokens count as special.
        tokenizer: The tokenizer that the rows were made with.
        probability: The share of tokens to predict, in (0, 1).
        seed: The seed of the choice, at least 0.
        fixed: Keep the masks of epoch 0, so that evaluations are comparable.

    Raises:
        ValueError: `probability` or `seed` is out of range, or the tokenizer lacks a mask token.
    """

    def __init__(
        self,
        examples: Rows,
        tokenizer: Tokenizer,
        probability: float = 0.15,
        seed: int = 0,
        fixed: bool = False,
    ) -> None:
        if not 0 < probability < 1:
            raise ValueError(f"the masking probability is a share in (0, 1), got {probability}")
        if seed < 0:
            raise ValueError(f"the masking seed is at least 0, got {seed}")
        if tokenizer.mask_token_id is None:
            raise ValueError(
                f"{type(tokenizer).__name__} lacks a mask token; masked language modeling needs one, "
                "add it with add_special_tokens or use the tokenizer of a masked language model"
            )
        self.examples = examples
        self.probability = probability
        self.seed = seed
        self.fixed = fixed
        self._mask_id = tokenizer.mask_token_id
        self._vocabulary = len(tokenizer)
        self._special = np.isin(np.arange(self._vocabulary), tokenizer.all_special_ids)
        self._inputs = [*tokenizer.model_input_names, "next_sentence_label"]
        # Shared memory: persistent workers of a data loader see the change.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the masks of an epoch; a fixed set keeps its masks.

        Args:
            epoch: Number of the epoch, counted from 0.
        """
        if not self.fixed:
            self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        index = range(len(self))[index]
        return self._masked(self.examples[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """Return the examples of a batch, read at once: with `datasets.Dataset` three times as fast."""
        if not hasattr(self.examples, "__getitems__"):
            return [self[index] for index in indices]
        indices = [range(len(self))[index] for index in indices]
        return [
            self._masked(*pair) for pair in zip(self.examples.__getitems__(indices), indices, strict=True)
        ]

    def _masked(self, example: Mapping[str, Sequence[int]], index: int) -> dict[str, np.ndarray]:
        item = {name: np.array(example[name], dtype=np.int64) for name in self._inputs if name in example}
        ids = item["input_ids"]
        draw = np.random.default_rng([self.seed, self.epoch, index])
        chosen = np.flatnonzero((draw.random(len(ids)) < self.probability) & self._choosable(example, item))
        kind = draw.random(len(chosen))
        words = draw.integers(self._vocabulary, size=len(chosen))

        item["labels"] = np.full_like(ids, IGNORED)
        item["labels"][chosen] = ids[chosen]
        replaced = np.where(kind < MASKED + RANDOM, words, ids[chosen])
        ids[chosen] = np.where(kind < MASKED, self._mask_id, replaced)
        return item

    def _choosable(self, example: Mapping[str, Sequence[int]], item: Mapping[str, np.ndarray]) -> np.ndarray:
        if "special_tokens_mask" in example:
            choosable = np.array(example["special_tokens_mask"], dtype=np.int64) == 0
        else:
            choosable = ~self._special[item["input_ids"]]
        return choosable & (item["attention_mask"] != 0) if "attention_mask" in item else choosable


class EpochCallback(TrainerCallback):
    """Calls `set_epoch` of the training set when an epoch begins.

    accelerate calls it only if the sampler lacks such a method: neither in a resumed epoch nor with several
    processes. Without this callback the masks would then be those of the first epoch.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        examples = kwargs["train_dataloader"].dataset
        if hasattr(examples, "set_epoch"):
            examples.set_epoch(int(state.epoch or 0))


def group_texts(
    tokenized: Mapping[str, Sequence[Sequence[int]]], block_length: int
) -> dict[str, list[list[int]]]:
    """Return the token lists of every column, concatenated and cut into blocks of equal length.

    It serves in `Dataset.map(..., batched=True)`.

    Args:
        tokenized: The token lists of each column, by its name.
        block_length: Tokens a block, at least 1. Tokens after the last whole block are dropped.

    Returns:
        The blocks of each column, by its name.

    Raises:
        ValueError: `block_length` is below 1.
    """
    if block_length < 1:
        raise ValueError(f"a block has at least 1 token, got block_length {block_length}")
    joined = {name: list(chain.from_iterable(rows)) for name, rows in tokenized.items()}
    whole = min(map(len, joined.values()), default=0) // block_length * block_length
    return {
        name: [tokens[start : start + block_length] for start in range(0, whole, block_length)]
        for name, tokens in joined.items()
    }
