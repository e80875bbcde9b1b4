"""The pairs made from sentences, their labels, and the share of text that is used."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from transformers import BertTokenizerFast

from hf_sparse.data.sentence_pairs import check_sentences, pair_encoder, split_sentences
from tests.data.tiny_tokenizers import gpt, roberta

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# w0 to w4999, so that every word of a text can be told apart.
WORDS = 5000
FIRST = len(SPECIAL)


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizerFast:
    words = [*SPECIAL, *(f"w{number}" for number in range(WORDS))]
    return BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})


def text(*sizes: int, start: int = 0) -> str:
    """Return sentences with these numbers of words, one per line; words are numbered from `start`."""
    lines = []
    for size in sizes:
        lines.append(" ".join(f"w{number}" for number in range(start, start + size)))
        start += size
    return "\n".join(lines)


def book(texts: int, longest: int = 12, seed: int = 0) -> list[str]:
    """Return texts of one to nine sentences; every word occurs once."""
    draw, start, found = random.Random(seed), 0, []
    for _ in range(texts):
        sizes = [draw.randint(1, longest) for _ in range(draw.randint(1, 9))]
        found.append(text(*sizes, start=start))
        start += sum(sizes)
    return found


def segments(examples: dict[str, list], row: int) -> list[list[int]]:
    """Return the numbers of the words of each segment."""
    parts, inner = [], []
    for token in examples["input_ids"][row][1:]:
        if token == SEP:
            parts.append(inner)
            inner = []
        else:
            inner.append(token - FIRST)
    return parts


def labels(examples: dict[str, list]) -> Counter[int]:
    return Counter(examples["next_sentence_label"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("One here. Two there!  Three?", ["One here.", "Two there!", "Three?"]),
        ("no capital letters . none at all", ["no capital letters .", "none at all"]),
        ("A heading\nIts text\n\n\nAnother", ["A heading", "Its text", "Another"]),
        ('"So be it." He left (at last.) Then', ['"So be it."', "He left (at last.)", "Then"]),
        ("J. Smith paid 3.50, e.g. to Dr. Who. Mrs. X did not.", 2),
        ("\u597d\u3002\u5929\u6c14\uff01", ["\u597d\u3002", "\u5929\u6c14\uff01"]),
        ("Wait\u2026 what", ["Wait\u2026", "what"]),
        ("  \n \t", []),
        ("", []),
        (None, []),
    ],
)
def test_sentences_end_at_punctuation_before_space_or_at_a_line(
    given: str | None, expected: list[str] | int
) -> None:
    found = split_sentences(given)
    assert (len(found) if isinstance(expected, int) else found) == expected


def test_a_pair_is_a_text_with_its_continuation_or_with_another(tokenizer: BertTokenizerFast) -> None:
    examples = pair_encoder(tokenizer, 9, seed=1)([text(2, 1, 2), text(3, 1, start=10)], 0)
    assert examples == {
        "input_ids": [
            [CLS, 5, 6, SEP, 7, 8, 9, SEP],
            [CLS, 15, 16, 17, SEP, 5, 6, 7, SEP],
            [CLS, 18, SEP, 5, 6, 7, 8, 9, SEP],
        ],
        "token_type_ids": [
            [0, 0, 0, 0, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 1, 1, 1, 1],
            [0, 0, 0, 1, 1, 1, 1, 1, 1],
        ],
        "attention_mask": [[1] * 8, [1] * 9, [1] * 9],
        "special_tokens_mask": [
            [1, 0, 0, 1, 0, 0, 0, 1],
            [1, 0, 0, 0, 1, 0, 0, 0, 1],
            [1, 0, 1, 0, 0, 0, 0, 0, 1],
        ],
        "next_sentence_label": [0, 1, 1],
    }


def test_pairs_depend_on_texts_seed_number_only(tokenizer: BertTokenizerFast) -> None:
    texts = book(40)
    examples = pair_encoder(tokenizer, 32, 0.2, seed=1)(texts, 7)
    assert pair_encoder(tokenizer, 32, 0.2, seed=1)(texts, 7) == examples
    assert pair_encoder(tokenizer, 32, 0.2, seed=2)(texts, 7) != examples
    assert pair_encoder(tokenizer, 32, 0.2, seed=1)(texts, 8) != examples


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_every_word_is_in_one_first_segment_or_continuation(
    tokenizer: BertTokenizerFast, share: float
) -> None:
    texts = book(80)
    examples = pair_encoder(tokenizer, 24, share)(texts, 0)
    used = []
    for row, label in enumerate(examples["next_sentence_label"]):
        parts = segments(examples, row)
        assert len(parts) == (1 if label == -100 else 2)
        used += parts[0] + (parts[1] if label == 0 else [])
    assert used == list(range(sum(len(one.split()) for one in texts)))


@pytest.mark.parametrize("length", [5, 6, 24, 64])
def test_no_example_is_too_long_and_none_has_an_empty_segment(
    tokenizer: BertTokenizerFast, length: int
) -> None:
    examples = pair_encoder(tokenizer, length, 0.2)(book(60, longest=40), 0)
    assert max(map(len, examples["input_ids"])) <= length
    rows = range(len(examples["input_ids"]))
    assert all(len(part) > 0 for row in rows for part in segments(examples, row))


def test_labels_say_what_the_second_segment_is(tokenizer: BertTokenizerFast) -> None:
    texts = book(60)
    home = {int(word[1:]): number for number, one in enumerate(texts) for word in one.split()}
    examples = pair_encoder(tokenizer, 32)(texts, 0)
    for row, label in enumerate(examples["next_sentence_label"]):
        first, second = segments(examples, row)
        assert (home[first[0]] == home[second[0]]) is (label == 0)
        assert (second[0] == first[-1] + 1) or label == 1


def test_half_of_the_pairs_are_random(tokenizer: BertTokenizerFast) -> None:
    counts = labels(pair_encoder(tokenizer, 32)(book(100), 0))
    assert abs(counts[0] - counts[1]) <= 3 and sum(counts.values()) > 200


def test_the_order_of_labels_is_drawn(tokenizer: BertTokenizerFast) -> None:
    made = pair_encoder(tokenizer, 32)([text(*[3] * 400), text(*[3] * 400, start=1200)], 0)
    order = made["next_sentence_label"]
    repeats = sum(one == other for one, other in zip(order, order[1:], strict=False))
    assert 0.15 < repeats / len(order) < 0.35


def test_the_share_of_single_segments_is_as_asked(tokenizer: BertTokenizerFast) -> None:
    counts = labels(pair_encoder(tokenizer, 32, single_share=0.3)(book(150), 0))
    assert counts[-100] / sum(counts.values()) == pytest.approx(0.3, abs=0.05)
    assert abs(counts[0] - counts[1]) <= 3


def test_a_single_segment_fills_the_room_of_a_pair(tokenizer: BertTokenizerFast) -> None:
    examples = pair_encoder(tokenizer, 8, single_share=0.999)([text(2, 2, 2, 2), text(1)], 0)
    assert examples["input_ids"][0] == [CLS, 5, 6, 7, 8, 9, 10, SEP]
    assert examples["token_type_ids"][0] == [0] * 8


def test_a_text_of_one_sentence_is_paired_with_another(tokenizer: BertTokenizerFast) -> None:
    examples = pair_encoder(tokenizer, 32)([text(3), text(2, start=10)], 0)
    assert [segments(examples, row) for row in (0, 1)] == [[[0, 1, 2], [10, 11]], [[10, 11], [0, 1, 2]]]
    assert examples["next_sentence_label"] == [1, 1]


def test_a_text_alone_in_its_block_has_no_random_pairs(tokenizer: BertTokenizerFast) -> None:
    examples = pair_encoder(tokenizer, 9)([None, text(3, 3, 3), "  "], 0)
    assert [segments(examples, row) for row in (0, 1)] == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8]]]
    assert examples["next_sentence_label"] == [0, -100]


def test_a_block_without_words_gives_nothing(tokenizer: BertTokenizerFast) -> None:
    assert set(map(len, pair_encoder(tokenizer, 9)([None, " "], 0).values())) == {0}


def test_a_long_sentence_is_cut_into_equal_parts(tokenizer: BertTokenizerFast) -> None:
    examples = pair_encoder(tokenizer, 11)([text(10)], 0)
    assert [segments(examples, row) for row in (0, 1)] == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8, 9]]]
    assert examples["next_sentence_label"] == [0, -100]


def test_another_tokenizer_puts_its_own_signs_in_between() -> None:
    examples = pair_encoder(roberta(), 24)(["the cat. on the mat", None], 0)
    (row,) = examples["input_ids"]
    tokens = roberta().convert_ids_to_tokens(row)
    assert [token for token in tokens if token.startswith("[")] == ["[CLS]", "[SEP]", "[SEP]", "[SEP]"]
    assert sum(examples["special_tokens_mask"][0]) == 4
    # A sentence inside a text goes on after a space.
    assert tokens[tokens.index("[SEP]") + 2].startswith("\u0120")


def test_bad_arguments_are_refused(tokenizer: BertTokenizerFast) -> None:
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match=rf"share of single segments is in \[0, 1\), got {share}"):
            pair_encoder(tokenizer, 32, share)
    with pytest.raises(ValueError, match="3 special tokens and at least 2 others, got a length of 4; raise"):
        pair_encoder(tokenizer, 4)
    with pytest.raises(ValueError, match="puts nothing between two texts, .* take a tokenizer with sep"):
        pair_encoder(gpt(), 32)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["One only.", None, "And one"], "none of 2 texts has a second one; give a paragraph or a document"),
        (["", None], "none of 0 texts has a second one"),
        ([], "none of 0 texts has a second one"),
        (
            ["One. Two.", " "],
            "come from another text, and only one was given; give a paragraph or a document",
        ),
    ],
)
def test_texts_without_pairs_are_refused(texts: Sequence[str | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sentences(texts)


def test_two_texts_of_which_one_has_two_sentences_will_do() -> None:
    check_sentences(["One only.", "One. Two."])
