"""Make pairs of segments for next-sentence prediction: the second continues the first, or is random.

Devlin et al. 2018, arXiv:1810.04805, appendix A.2.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby, islice, takewhile

import numpy as np
from transformers import PreTrainedTokenizerBase

# Labels of the second segment, as in transformers; -100 stands for a single segment.
FOLLOWS, RANDOM, SINGLE = 0, 1, -100

# Sentence ends, except after initials ("J. Smith", "e.g. this") and titles.
_END = re.compile(
    r"\s*\n\s*"
    r"|(?:(?<=[.!?\u2026])|(?<=[.!?\u2026][\"'\u201d\u2019\u00bb)\]]))"
    r"(?<!\b[A-Za-z]\.)(?<!\b(?:Mr|Ms|Dr|St|vs)\.)(?<!\b(?:Mrs|Rev)\.)\s+"
    r"|(?<=[\u3002\uff01\uff1f])\s*"
)

Sentence = list[int]


def split_sentences(text: str | None) -> list[str]:
    """Split a text into sentences, without white space around them.

    Sentences end at newlines, after `.`, `!`, `?` or an ellipsis before white space, and after their CJK
    forms. A closing quote or bracket stays with its sentence. Single letters ("J. Smith") and a few titles do
    not end a sentence.
    """
    return [sentence for part in _END.split(text or "") if (sentence := part.strip())]


def check_sentences(texts: Iterable[str | None]) -> None:
    """Raise `ValueError` unless two texts have words and one of them has two sentences."""
    several, filled = False, 0
    for text in texts:
        sentences = split_sentences(text)
        several, filled = several or len(sentences) > 1, filled + bool(sentences)
        if several and filled > 1:
            return
    if several:
        raise ValueError(
            "random second sentences come from another text, and only one was given; give a paragraph or "
            "a document in each row, or read the text without sentence pairs"
        )
    raise ValueError(
        f"pairs are made of texts of at least two sentences, and none of {filled} texts has a second one; "
        "give a paragraph or a document in each row, with punctuation or line ends between its sentences, or "
        "read the text without sentence pairs"
    )


@dataclass(frozen=True)
class _Frame:
    """The special tokens around texts: runs of (special, ids, type), without ids for the texts."""

    runs: tuple[tuple[bool, Sentence, int], ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, texts: int) -> "_Frame":
        probe = tokenizer(*["a"] * texts, return_special_tokens_mask=True, return_token_type_ids=True)
        marked = zip(probe["special_tokens_mask"], probe["token_type_ids"], probe["input_ids"], strict=True)
        runs = []
        for (special, kind), tokens in groupby(marked, key=lambda token: token[:2]):
            runs.append((special == 1, [token[2] for token in tokens] if special else [], kind))
        if [special for special, _ in groupby(special for special, _, _ in runs)].count(False) != texts:
            raise ValueError(
                f"{type(tokenizer).__name__} puts nothing between two texts, so pairs look like one; take a "
                "tokenizer with separators, such as BERT's, or read the text without sentence pairs"
            )
        return cls(tuple(runs))

    @property
    def size(self) -> int:
        """Number of special tokens."""
        return sum(len(ids) for _, ids, _ in self.runs)

    def around(self, segments: Sequence[Sentence]) -> dict[str, list[int]]:
        """Return the columns of one example."""
        rest = iter(segments)
        parts = [(special, ids if special else next(rest), kind) for special, ids, kind in self.runs]
        ids = list(chain.from_iterable(part for _, part, _ in parts))
        return {
            "input_ids": ids,
            "token_type_ids": [kind for _, part, kind in parts for _ in part],
            "attention_mask": [1] * len(ids),
            "special_tokens_mask": [int(special) for special, part, _ in parts for _ in part],
        }


def pair_encoder(
    tokenizer: PreTrainedTokenizerBase, length: int, single_share: float = 0.0, seed: int = 0
) -> Callable[[Sequence[str | None], int], dict[str, list]]:
    """Return a function from a block of texts and the number of the block to examples by column.

    The columns are `input_ids`, `token_type_ids`, `attention_mask`, `special_tokens_mask` and
    `next_sentence_label`: 0 if the second segment continues the first, 1 if it comes from another text of the
    block. Both occur equally often, as far as the texts allow. Every token of a text is in an example, as
    part of a first segment or of a continuation; sentences longer than half of the room are cut. The result
    depends only on texts, number and seed.

    Args:
        tokenizer: The model's tokenizer.
        length: Tokens in an example, at most.
        single_share: The share of examples with a single segment and the label -100.
        seed: Seed of all random choices.

    Raises:
        ValueError: The share is outside [0, 1), the length leaves no room for a pair, or the tokenizer does
            not separate two texts.
    """
    if not 0 <= single_share < 1:
        raise ValueError(f"the share of single segments is in [0, 1), got {single_share}")
    frames = {texts: _Frame.of(tokenizer, texts) for texts in (1, 2)}
    room, single_room = length - frames[2].size, length - frames[1].size
    if room < 2:
        raise ValueError(
            f"a pair has {frames[2].size} special tokens and at least 2 others, got a length of {length}; "
            "raise it"
        )

    def encode(texts: Sequence[str | None], number: int) -> dict[str, list]:
        draw = np.random.default_rng([seed, number])
        tokens = [text for text in _tokens(texts, tokenizer, room // 2) if text]
        examples = [
            frames[len(segments)].around(segments) | {"next_sentence_label": label}
            for segments, label in _Packer(tokens, room, single_room, single_share, draw).examples()
        ]
        names = ("input_ids", "token_type_ids", "attention_mask", "special_tokens_mask")
        return {name: [row[name] for row in examples] for name in (*names, "next_sentence_label")}

    return encode


def _tokens(
    texts: Sequence[str | None], tokenizer: PreTrainedTokenizerBase, most: int
) -> list[list[Sentence]]:
    """Return the tokens of each sentence of each text, cut into equal parts of at most `most` tokens."""
    split = [split_sentences(text) for text in texts]
    # Byte-level tokenizers give a word other tokens after a space than at the beginning of a text.
    flat = [" " * (place > 0) + sentence for text in split for place, sentence in enumerate(text)]
    # Tokenizers refuse an empty list.
    rows = tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"] if flat else []
    rest = iter(rows)
    return [list(chain.from_iterable(_parts(ids, most) for ids in islice(rest, len(text)))) for text in split]


def _parts(ids: Sentence, most: int) -> list[Sentence]:
    count = -(-len(ids) // most)
    cuts = [len(ids) * part // count for part in range(count + 1)] if count else [0]
    return [ids[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]


@dataclass
class _Packer:
    """Packs the sentences of a block of texts into examples, in one pass over each text."""

    texts: list[list[Sentence]]
    room: int
    single_room: int
    single_share: float
    draw: np.random.Generator
    # Random second segments so far, minus continuations.
    surplus: int = 0

    def examples(self) -> Iterator[tuple[list[Sentence], int]]:
        """Yield segments with their label."""
        for number, text in enumerate(self.texts):
            start = 0
            while start < len(text):
                segments, label, start = self._example(number, start)
                yield [list(chain.from_iterable(segment)) for segment in segments], label

    def _example(self, number: int, start: int) -> tuple[list[list[Sentence]], int, int]:
        """Return the segments and label of an example from sentence `start` on, and the start of the next."""
        text = self.texts[number]
        if self.draw.random() < self.single_share:
            end = _end(text, start, self.single_room)
            return [text[start:end]], SINGLE, end
        end = _end(text, start, self.room)
        several, others = end - start > 1, len(self.texts) > 1
        if not several and not others:
            return [text[start:end]], SINGLE, end
        # Take the kind that is rarer so far; draw if both are equally frequent.
        random = others and (self.surplus < 0 or (self.surplus == 0 and self.draw.random() < 0.5))
        middle = start + int(self.draw.integers(1, end - start)) if several else end
        if several and not random:
            self.surplus -= 1
            return [text[start:middle], text[middle:end]], FOLLOWS, end
        self.surplus += 1
        other = self.texts[self._other(number)]
        begin = int(self.draw.integers(len(other)))
        # Sentences that do not fit beside one of the other text are left for the next example.
        middle = min(middle, _end(text, start, self.room - len(other[begin])))
        taken = sum(map(len, text[start:middle]))
        return [text[start:middle], other[begin : _end(other, begin, self.room - taken)]], RANDOM, middle

    def _other(self, number: int) -> int:
        other = int(self.draw.integers(len(self.texts) - 1))
        return other + (other >= number)


def _end(text: Sequence[Sentence], start: int, room: int) -> int:
    """Return the end of the longest run of sentences from `start` that fits into `room` tokens."""
    sizes = accumulate(len(text[place]) for place in range(start, len(text)))
    return start + sum(1 for _ in takewhile(lambda size: size <= room, sizes))
