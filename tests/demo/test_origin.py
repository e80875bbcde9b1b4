"""Which model the demo starts from."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from hf_sparse.demo.origin import find_origin
from hf_sparse.demo.settings import DemoSettings
from hf_sparse.demo.sources import Examples, Sources

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
    origin = find_origin(DemoSettings(quick=True), SOURCES)
    assert origin.tokenizer.tokenize("words text") == ["words", "text"]
    assert origin.load().config.vocab_size == len(origin.tokenizer)


def test_texts_are_as_long_as_the_given_model_can_take(model_dir: Path) -> None:
    origin = find_origin(DemoSettings(model=str(model_dir)), SOURCES)
    assert origin.length == 24 and len(origin.tokenizer) == 6


def test_another_given_model_has_another_fingerprint(model_dir: Path) -> None:
    settings = DemoSettings(model=str(model_dir))
    first = find_origin(settings, SOURCES)
    model = first.load()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[5, 0] += 1
    model.save_pretrained(model_dir)
    assert find_origin(settings, SOURCES).fingerprint != first.fingerprint


def test_what_is_no_masked_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="could not be loaded as a masked language model with its tokenizer; give"
    ):
        find_origin(DemoSettings(model=str(tmp_path)), SOURCES)
