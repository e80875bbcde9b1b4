"""The base model of the demo, new or given, and the vocabulary of a new one."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertTokenizer

from hf_sparse.demo.settings import DemoSettings, Plan, Training
from hf_sparse.demo.sources import Examples, Sources, find_base_model, learn_vocabulary, new_model

TEXTS = ["Return the length of the list", "the length of a string", "Lists are ordered"] * 3
ROWS = Examples((["a"],), [0])
SOURCES = Sources(["one text of five words"], ["other"], ("x", "y"), ROWS, ROWS)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    config = BertConfig(
        vocab_size=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=24
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}).save_pretrained(tmp_path)
    return tmp_path


def test_a_new_model_has_the_vocabulary_of_the_text() -> None:
    base = find_base_model(DemoSettings(quick=True), SOURCES)
    assert base.tokenizer.tokenize("words text") == ["words", "text"]
    assert base.load().config.vocab_size == len(base.tokenizer)


def test_texts_are_as_long_as_the_given_model_can_take(model_dir: Path) -> None:
    base = find_base_model(DemoSettings(model=str(model_dir)), SOURCES)
    assert base.length == 24 and len(base.tokenizer) == 6


def test_another_given_model_has_another_fingerprint(model_dir: Path) -> None:
    settings = DemoSettings(model=str(model_dir))
    first = find_base_model(settings, SOURCES)
    model = first.load()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[5, 0] += 1
    model.save_pretrained(model_dir)
    assert find_base_model(settings, SOURCES).fingerprint != first.fingerprint


def test_what_is_no_masked_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="could not be loaded as a masked language model with its tokenizer; give"
    ):
        find_base_model(DemoSettings(model=str(tmp_path)), SOURCES)


def test_a_new_model_has_the_shape_of_the_plan() -> None:
    steps = Training(1, 1e-3, 1)
    plan = Plan(steps, steps, steps, steps, steps, steps, length=4, hidden=32, layers=1)
    config = new_model(learn_vocabulary(TEXTS, size=60, length=4), plan).config
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (32, 1, 60)


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
    learned = [learn_vocabulary(texts, size=60, length=16).get_vocab() for _ in range(5)]
    assert all(vocabulary == learned[0] for vocabulary in learned)
