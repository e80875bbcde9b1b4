"""Texts as pairs of segments, the second one the continuation of the first or taken from elsewhere.

As BERT reads them for next-sentence prediction (Devlin et al. 2018, arXiv:1810.04805, appendix A.2).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby, islice, takewhile

import numpy as np
from transformers import PreTrainedTokenizerBase

# Labels of the second segment, as the next-sentence heads of transformers count; -100 is no second segment.
FOLLOWS, RANDOM, SINGLE = 0, 1, -100

# Not after initials ("J. Smith", "e.g. this") or titles.
_END = re.compile(
    r"\s*\n\s*"
    r"|(?:(?<=[.!?\u2026])|(?<=[.!?\u2026][\"'\u201d\u2019\u00bb)\]]))"
    r"(?<!\b[A-Za-z]\.)(?<!\b(?:Mr|Ms|Dr|St|vs)\.)(?<!\b(?:Mrs|Rev)\.)\s+"
    r"|(?<=[\u3002\uff01\uff1f])\s*"
)

Sentence = list[int]


def split_sentences(text: str | None) -> list[str]:
    """Split a text after `.`, `!`, `?` or an ellipsis before white space, after their CJK forms, at newlines.

    A closing quote or bracket stays with its sentence; single letters ("J. Smith") and a few titles do not
    end one. Sentences come without white space around them, a text without words has none.
    """
    return [sentence for part in _END.split(text or "") if (sentence := part.strip())]


def check_sentences(texts: Iterable[str | None]) -> None:
    """Raise `ValueError` unless pairs can be made of texts: two have words, one of them two sentences."""
    several, filled = False, 0
    for text in texts:
        sentences = split_sentences(text)
        several, filled = several or len(sentences) > 1, filled + bool(sentences)
        if several and filled > 1:
            return
    if several:
        raise ValueError(
            "random second sentences come from another text, and there is only one; give a paragraph or a "
            "document in each row, or read the text without sentence pairs"
        )
    raise ValueError(
        f"pairs are made of texts of at least two sentences, and none of {filled} texts has a second one; "
        "give a paragraph or a document in each row, with punctuation or line ends between its sentences, or "
        "read the text without sentence pairs"
    )


@dataclass(frozen=True)
class _Frame:
    """What a tokenizer puts around one text or two: runs of (special, ids, type), for a text without ids."""

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
                f"{type(tokenizer).__name__} puts nothing between two texts, so they are no pair; take a "
                "tokenizer with separators, such as BERT's, or read the text without sentence pairs"
            )
        return cls(tuple(runs))

    @property
    def size(self) -> int:
        """How many tokens it adds."""
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
    """Make the function from a block of texts and its number to examples of at most `length` tokens.

    Examples have `input_ids`, `token_type_ids`, `attention_mask`, `special_tokens_mask` and
    `next_sentence_label`: 0 where the second segment continues the first, 1 where it comes from another text
    of the block, as many of each as the texts allow, in an order that is drawn. A share of `single_share`
    has one segment and the label -100. Every token of a text is in some example as a first segment or as a
    continuation; a sentence longer than half of the room is cut into parts. What comes out depends on texts,
    number and seed alone. Raises `ValueError` for a share outside [0, 1), a length without room for a pair,
    a tokenizer that does not separate two texts.
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
    """Tokenize each sentence of each text, cutting those of more than `most` tokens into equal parts."""
    split = [split_sentences(text) for text in texts]
    # Byte-level tokenizers tell a word that begins a text from one that goes on, by the space before it.
    flat = [" " * (place > 0) + sentence for text in split for place, sentence in enumerate(text)]
    # A tokenizer cannot take an empty list.
    rows = tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"] if flat else []
    rest = iter(rows)
    return [list(chain.from_iterable(_parts(ids, most) for ids in islice(rest, len(text)))) for text in split]


def _parts(ids: Sentence, most: int) -> list[Sentence]:
    count = -(-len(ids) // most)
    cuts = [len(ids) * part // count for part in range(count + 1)] if count else [0]
    return [ids[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]


@dataclass
class _Packer:
    """Packs the sentences of a block of texts into examples, going through each text once."""

    texts: list[list[Sentence]]
    room: int
    single_room: int
    single_share: float
    draw: np.random.Generator
    # Random second segments made so far, less the continuations.
    surplus: int = 0

    def examples(self) -> Iterator[tuple[list[Sentence], int]]:
        """Yield segments with their label."""
        for number, text in enumerate(self.texts):
            start = 0
            while start < len(text):
                segments, label, start = self._example(number, start)
                yield [list(chain.from_iterable(segment)) for segment in segments], label

    def _example(self, number: int, start: int) -> tuple[list[list[Sentence]], int, int]:
        """Make one from sentence `start` of a text on; return where the next one starts, too."""
        text = self.texts[number]
        if self.draw.random() < self.single_share:
            end = _end(text, start, self.single_room)
            return [text[start:end]], SINGLE, end
        end = _end(text, start, self.room)
        several, others = end - start > 1, len(self.texts) > 1
        if not several and not others:
            return [text[start:end]], SINGLE, end
        # Half of either kind: a draw where they are even, else the one that has been rarer so far.
        random = others and (self.surplus < 0 or (self.surplus == 0 and self.draw.random() < 0.5))
        middle = start + int(self.draw.integers(1, end - start)) if several else end
        if several and not random:
            self.surplus -= 1
            return [text[start:middle], text[middle:end]], FOLLOWS, end
        self.surplus += 1
        other = self.texts[self._other(number)]
        begin = int(self.draw.integers(len(other)))
        # What does not fit beside a sentence of the other text is left for the next example.
        middle = min(middle, _end(text, start, self.room - len(other[begin])))
        taken = sum(map(len, text[start:middle]))
        return [text[start:middle], other[begin : _end(other, begin, self.room - taken)]], RANDOM, middle

    def _other(self, number: int) -> int:
        other = int(self.draw.integers(len(self.texts) - 1))
        return other + (other >= number)


def _end(text: Sequence[Sentence], start: int, room: int) -> int:
    """Return where the sentences from `start` on end that fit into `room` tokens together."""
    sizes = accumulate(len(text[place]) for place in range(start, len(text)))
    return start + sum(1 for _ in takewhile(lambda size: size <= room, sizes))
