"""Split long contexts into overlapping windows of tokens for extractive question answering."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from tokenizers import Encoding
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedTokenizerBase

from hf_sparse.data.qa_examples import ROW, QuestionColumns, TrueAnswer, find_span, question_ids, true_answers

logger = logging.getLogger(__name__)

Batch = Mapping[str, Sequence[Any]]
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Window:
    """The row of a window in its batch, and the characters of the context that its L tokens stand for.

    Token i stands for the characters `first[i]` up to but excluding `end[i]`; both are equal for tokens of
    the question, special tokens and white space. `no_answer` is the index of the token for "no answer".
    """

    row: int
    first: np.ndarray
    end: np.ndarray
    no_answer: int

    def tokens_of(self, first: int, end: int) -> tuple[int, int] | None:
        """Return the first and last token of a range of characters, None if part of it is outside."""
        tokens = np.flatnonzero(self.end > self.first)
        if not len(tokens) or self.first[tokens[0]] > first or self.end[tokens[-1]] < end:
            return None
        start = int(tokens[np.searchsorted(self.end[tokens], first, side="right")])
        stop = int(tokens[np.searchsorted(self.first[tokens], end, side="left") - 1])
        return (start, stop) if start <= stop else None


@dataclass(frozen=True)
class Cutting:
    """Splits a question and its context into windows: the whole question, then a part of the context.

    Args:
        tokenizer: A fast tokenizer.
        max_length: Tokens in a window, at most.
        doc_stride: Tokens of the context that neighboring windows share.
        pad: Pad windows to `max_length`. Tokenizers that pad on the left always do, because padding that a
            collator adds there would move the tokens.

    Raises:
        ValueError: The tokenizer is not a fast one, `doc_stride` is below 0, or (when called) a question
            leaves too little room for its context.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    doc_stride: int
    pad: bool = False

    def __post_init__(self) -> None:
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"{type(self.tokenizer).__name__} does not map tokens to characters; take the fast tokenizer "
                "of this model, which AutoTokenizer loads"
            )
        if self.doc_stride < 0:
            raise ValueError(f"doc_stride is a number of tokens, at least 0, got {self.doc_stride}")

    def __call__(
        self, questions: Sequence[str | None], contexts: Sequence[str | None]
    ) -> tuple[Columns, list[Window]]:
        """Return the model's inputs by name, and the windows they come from; a missing text is empty."""
        # Some data has hundreds of spaces before a question, and some tokenizers make each a token.
        asked = [(text or "").strip() for text in questions]
        texts = [text or "" for text in contexts]
        self._check_room(asked)
        tokens = self.tokenizer(
            asked,
            texts,
            truncation="only_second",
            max_length=self.max_length,
            stride=self.doc_stride,
            padding="max_length" if self.pad or self.tokenizer.padding_side == "left" else False,
            return_overflowing_tokens=True,
        )
        # For each text, the number of visible characters before each position.
        visible = {text: np.cumsum([0, *(not letter.isspace() for letter in text)]) for text in set(texts)}
        windows = [
            self._window(encoding, row, visible[texts[row]])
            for encoding, row in zip(tokens.encodings, tokens["overflow_to_sample_mapping"], strict=True)
        ]
        return {name: tokens[name] for name in self.tokenizer.model_input_names if name in tokens}, windows

    def _check_room(self, questions: Sequence[str]) -> None:
        ids = self.tokenizer(questions, add_special_tokens=False)["input_ids"]
        longest, question = max((len(tokens), text) for tokens, text in zip(ids, questions, strict=True))
        room = self.max_length - longest - self.tokenizer.num_special_tokens_to_add(pair=True)
        if self.doc_stride >= room:
            raise ValueError(
                f"the question {question[:60]!r} of {longest} tokens leaves room for {max(room, 0)} tokens "
                f"of its context in max_seq_length {self.max_length}, and doc_stride {self.doc_stride} must "
                f"be less; {'lower doc_stride, ' if room > 0 else ''}raise max_seq_length, or remove it"
            )

    def _window(self, encoding: Encoding, row: int, visible: np.ndarray) -> Window:
        parts = encoding.sequence_ids
        places = np.array(encoding.offsets) * np.array([[part == 1] for part in parts])
        # Answers neither begin nor end with tokens of white space.
        places[visible[places[:, 0]] == visible[places[:, 1]]] = 0
        real = np.array(encoding.attention_mask) == 1
        added = real & np.array([part is None for part in parts])
        no_answer = self._no_answer(np.array(encoding.ids), real, added)
        return Window(row, places[:, 0], places[:, 1], no_answer)

    def _no_answer(self, ids: np.ndarray, real: np.ndarray, added: np.ndarray) -> int:
        """Return the token that means "no answer": cls, else bos, else the first that is not padding."""
        for special in (self.tokenizer.cls_token_id, self.tokenizer.bos_token_id):
            found = np.flatnonzero(added & (ids == special))
            if len(found):
                return int(found[0])
        return int(real.argmax())


def training_encoder(cutting: Cutting, columns: QuestionColumns) -> Callable[[Batch], Columns]:
    """Return a function from a batch of `numbered` rows to labeled windows, for `map(..., batched=True)`.

    The labels `start_positions` and `end_positions` are the first and last token of the first answer that is
    at its `answer_start`. In windows that do not hold all of it, and for unanswerable questions, both are the
    token that means "no answer". Rows whose answers are all misplaced or whole in no window get no windows,
    because those would teach that the question is unanswerable; `report_left_out` counts these rows.

    Raises `ValueError` for columns without answers.
    """
    column = columns.answers
    if column is None:
        raise ValueError("training needs a column of answers; name it, or evaluate only")

    def encode(batch: Batch) -> Columns:
        contexts, answers = batch[columns.context], [true_answers(value) for value in batch[column]]
        tokens, windows = cutting(batch[columns.question], contexts)
        ranges = [find_span(*pair) for pair in zip(contexts, answers, strict=True)]
        spans = [_tokens_of(window, ranges[window.row]) for window in windows]
        shown = {window.row for window, span in zip(windows, spans, strict=True) if span is not None}
        keep = [i for i, window in enumerate(windows) if window.row in shown or not answers[window.row]]
        labels = [spans[i] or (windows[i].no_answer, windows[i].no_answer) for i in keep]
        return {name: [values[i] for i in keep] for name, values in tokens.items()} | {
            "start_positions": [start for start, _ in labels],
            "end_positions": [stop for _, stop in labels],
            ROW: [batch[ROW][windows[i].row] for i in keep],
        }

    return encode


def _tokens_of(window: Window, characters: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if characters is None else window.tokens_of(*characters)


def evaluation_encoder(cutting: Cutting, columns: QuestionColumns) -> Callable[[Batch], Columns]:
    """Return a function from a batch of `numbered` rows to the windows of a `QuestionSet`.

    For `Dataset.map(..., batched=True)`. The columns are the model's inputs and the fields of a `Window`.
    """

    def encode(batch: Batch) -> Columns:
        tokens, windows = cutting(batch[columns.question], batch[columns.context])
        return tokens | {
            "first": [window.first for window in windows],
            "end": [window.end for window in windows],
            "no_answer": [window.no_answer for window in windows],
            ROW: [batch[ROW][window.row] for window in windows],
        }

    return encode


def report_left_out(rows: Dataset, windows: Dataset) -> None:
    """Log how many rows `training_encoder` has left out; raise `ValueError` if none is left."""
    left = len(set(windows[ROW])) if len(windows) else 0
    if not left:
        raise ValueError(
            f"none of {len(rows)} questions has an answer that is at its answer_start and whole in a window; "
            "correct the answer_start values, or raise max_seq_length or doc_stride"
        )
    if left < len(rows):
        logger.warning(
            "%d of %d questions are left out of training: none of their answers is at its answer_start and "
            "whole in a window.",
            len(rows) - left,
            len(rows),
        )


class QuestionSet(TorchDataset):
    """Windows to evaluate a model on, with the data that turns its logits into answers.

    Items hold the model's inputs alone. For N windows of at most L tokens it has int64 arrays: `row` and
    `no_answer` (N), `first` and `end` (N, L), padded with zeros. `answers` is None without true answers.

    Args:
        rows: The questions.
        windows: The result of `evaluation_encoder` on the `numbered` rows.
        columns: The columns of the questions.
    """

    def __init__(self, rows: Dataset, windows: Dataset, columns: QuestionColumns) -> None:
        self.ids = question_ids(rows)
        self.contexts = [text or "" for text in rows[columns.context]]
        self.answers: list[list[TrueAnswer]] | None = None
        if columns.answers is not None:
            self.answers = [true_answers(value) for value in rows[columns.answers]]
        self.row, self.no_answer = (np.array(windows[name]) for name in (ROW, "no_answer"))
        self.first, self.end = (_table(windows, name) for name in ("first", "end"))
        self._inputs = windows.remove_columns(["first", "end", "no_answer", ROW])

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self._inputs[index]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, list[int]]]:
        """Return several rows at once, which is several times as fast."""
        return self._inputs.__getitems__(indices)


def _table(windows: Dataset, name: str) -> np.ndarray:
    columns = windows.with_format("numpy")[name][:]
    table = np.zeros((len(windows), max(map(len, columns))), dtype=np.int64)
    for line, values in zip(table, columns, strict=True):
        line[: len(values)] = values
    return table
