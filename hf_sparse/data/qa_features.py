"""Windows of tokens in which a model looks for the answer to a question, since a context may be too long."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from tokenizers import Encoding
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedTokenizerBase

from hf_sparse.data.qa_examples import ROW, QuestionColumns, find_span, question_ids, true_answers

logger = logging.getLogger(__name__)

Batch = Mapping[str, Sequence[Any]]
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Window:
    """What the L tokens of a window are: from which row of a batch, for which characters of its context.

    A token stands for the characters from `first` (L) up to `end` (L); these are equal for tokens of the
    question, special ones, and white space. `no_answer` is the index of the token that means "no answer".
    """

    row: int
    first: np.ndarray
    end: np.ndarray
    no_answer: int

    def tokens_of(self, first: int, end: int) -> tuple[int, int] | None:
        """Answer the first and last token of a range of characters, or None unless all of it is here."""
        tokens = np.flatnonzero(self.end > self.first)
        if not len(tokens) or self.first[tokens[0]] > first or self.end[tokens[-1]] < end:
            return None
        start = int(tokens[np.searchsorted(self.end[tokens], first, side="right")])
        stop = int(tokens[np.searchsorted(self.first[tokens], end, side="left") - 1])
        return (start, stop) if start <= stop else None


@dataclass(frozen=True)
class Cutting:
    """How a question and its context become windows: the whole question first, then a part of the context.

    Windows have at most `max_length` tokens; neighbours share `doc_stride` tokens of the context. With `pad`
    they are padded to `max_length`; always so where the tokenizer pads on the left, as padding that is added
    there later on would move the tokens. Raises `ValueError` for a tokenizer that does not say which
    characters a token stands for, and for a `doc_stride` below 0 or one that no context would be left beside.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    doc_stride: int
    pad: bool = False

    def __post_init__(self) -> None:
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"{type(self.tokenizer).__name__} does not say which characters a token stands for; take the "
                "fast tokenizer of this model, which AutoTokenizer loads"
            )
        if self.doc_stride < 0:
            raise ValueError(f"doc_stride is a number of tokens, at least 0, got {self.doc_stride}")

    def __call__(
        self, questions: Sequence[str | None], contexts: Sequence[str | None]
    ) -> tuple[Columns, list[Window]]:
        """Cut; answer the model's inputs by name, with what their tokens are. A missing text is empty."""
        # Some data has hundreds of spaces in front of a question, each a token to some tokenizers.
        questions = [(text or "").strip() for text in questions]
        contexts = [text or "" for text in contexts]
        self._check_room(questions)
        tokens = self.tokenizer(
            questions,
            contexts,
            truncation="only_second",
            max_length=self.max_length,
            stride=self.doc_stride,
            padding="max_length" if self.pad or self.tokenizer.padding_side == "left" else False,
            return_overflowing_tokens=True,
        )
        # How many characters up to each one can be seen.
        visible = {text: np.cumsum([0, *(not letter.isspace() for letter in text)]) for text in set(contexts)}
        windows = [
            self._window(encoding, row, visible[contexts[row]])
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
        # Tokens of white space alone neither begin nor end an answer.
        places[visible[places[:, 0]] == visible[places[:, 1]]] = 0
        real = np.array(encoding.attention_mask) == 1
        added = real & np.array([part is None for part in parts])
        no_answer = self._no_answer(np.array(encoding.ids), real, added)
        return Window(row, places[:, 0], places[:, 1], no_answer)

    def _no_answer(self, ids: np.ndarray, real: np.ndarray, added: np.ndarray) -> int:
        """Choose the token that means "no answer": cls, or else bos, or else the first but for padding."""
        for special in (self.tokenizer.cls_token_id, self.tokenizer.bos_token_id):
            found = np.flatnonzero(added & (ids == special))
            if len(found):
                return int(found[0])
        return int(real.argmax())


def training_encoder(cutting: Cutting, columns: QuestionColumns) -> Callable[[Batch], Columns]:
    """Make the function from a batch of `numbered` rows to windows labelled with the answer.

    For `Dataset.map(..., batched=True)`. The labels `start_positions` and `end_positions` are the first and
    last token of the first answer that is at its `answer_start`, or the token that means "no answer" in
    windows that do not show all of it, and for questions without any. A row with answers of which none is at
    its place and whole in some window has no windows: they would teach that there is no answer.
    `report_left_out` counts such rows.
    """

    def encode(batch: Batch) -> Columns:
        contexts, answers = batch[columns.context], [true_answers(value) for value in batch[columns.answers]]
        tokens, windows = cutting(batch[columns.question], contexts)
        ranges = [find_span(*pair) for pair in zip(contexts, answers, strict=True)]
        spans = [ranges[window.row] and window.tokens_of(*ranges[window.row]) for window in windows]
        shown = {window.row for window, span in zip(windows, spans, strict=True) if span is not None}
        keep = [i for i, window in enumerate(windows) if window.row in shown or not answers[window.row]]
        labels = [spans[i] or (windows[i].no_answer, windows[i].no_answer) for i in keep]
        return {name: [values[i] for i in keep] for name, values in tokens.items()} | {
            "start_positions": [start for start, _ in labels],
            "end_positions": [stop for _, stop in labels],
            ROW: [batch[ROW][windows[i].row] for i in keep],
        }

    return encode


def evaluation_encoder(cutting: Cutting, columns: QuestionColumns) -> Callable[[Batch], Columns]:
    """Make the function from a batch of `numbered` rows to the windows of a `QuestionSet`.

    For `Dataset.map(..., batched=True)`. Beside the inputs of the model, its columns are those of a `Window`.
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
            "correct the places, or raise max_seq_length or doc_stride"
        )
    if left < len(rows):
        logger.warning(
            "%d of %d questions are left out of training: none of their answers is at its answer_start and "
            "whole in a window.",
            len(rows) - left,
            len(rows),
        )


class QuestionSet(TorchDataset):
    """Windows for a model to look for answers in, with all that is needed to turn what it says into text.

    `rows` are the questions, `windows` what `evaluation_encoder` made of them once `numbered`. Items are the
    inputs of the model alone. For N windows of at most L tokens there are int64 arrays: `row` and `no_answer`
    (N), `first` and `end` (N, L), filled up with zeros. `answers` is None where they are not known.
    """

    def __init__(self, rows: Dataset, windows: Dataset, columns: QuestionColumns) -> None:
        self.ids = question_ids(rows)
        self.contexts = [text or "" for text in rows[columns.context]]
        self.answers: list[list[tuple[str, int]]] | None = None
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
        """Read a batch at once, which is several times as fast."""
        return self._inputs.__getitems__(indices)


def _table(windows: Dataset, name: str) -> np.ndarray:
    columns = windows.with_format("numpy")[name][:]
    table = np.zeros((len(windows), max(map(len, columns))), dtype=np.int64)
    for line, values in zip(table, columns, strict=True):
        line[: len(values)] = values
    return table
