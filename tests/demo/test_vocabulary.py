"""The vocabulary that a model from nothing starts with."""

from pathlib import Path

from transformers import AutoTokenizer

from hf_sparse.demo.vocabulary import learn_vocabulary

TEXTS = ["Return the length of the list", "the length of a string", "Lists are ordered"] * 3


def test_frequent_words_become_one_piece_and_others_several() -> None:
    tokenizer = learn_vocabulary(TEXTS, size=60, length=16)
    assert tokenizer.tokenize("The length") == ["the", "length"]
    assert "".join(tokenizer.tokenize("listing")).replace("##", "") == "listing"
    assert len(tokenizer) == 60


def test_it_is_saved_as_a_plain_tokenizer(tmp_path: Path) -> None:
    tokenizer = learn_vocabulary(TEXTS, size=60, length=16)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("Return lists")["input_ids"] == tokenizer("Return lists")["input_ids"]
    assert (loaded.model_max_length, loaded.mask_token, loaded.pad_token_id) == (16, "[MASK]", 0)


def test_the_same_text_gives_the_same_vocabulary_every_time() -> None:
    texts = [f"{first}{second}{third}" for first in "abcd" for second in "efgh" for third in "ijkl"]
    learnt = [learn_vocabulary(texts, size=60, length=16).get_vocab() for _ in range(5)]
    assert all(vocabulary == learnt[0] for vocabulary in learnt)
