"""Models of sentence-transformers are made ready to run by the one that they hold."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

from hf_sparse.runtime import fuse, optimize
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.fused_encoder import FusedEncoder
from hf_sparse.runtime.linear import RuntimeLinear

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")

WORDS = [f"w{number}" for number in range(100)]
CONFIG = {
    "vocab_size": 105,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}
# Their lengths differ, so that `encode` sorts them and pads each batch.
TEXTS = [" ".join(WORDS[(7 * row + word) % 100] for word in range(1 + 5 * row % 31)) for row in range(24)]


def save(folder: Path, model: nn.Module) -> str:
    for parameter in model.parameters():
        # Larger than fresh weights, so that texts differ in what the model says.
        parameter.data.mul_(3)
    model.save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate(special + WORDS)}
    BertTokenizer(vocab=vocabulary, model_max_length=48).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def embedder(tmp_path: Path) -> SentenceTransformer:
    torch.manual_seed(3)
    encoder = Transformer(save(tmp_path, BertModel(BertConfig(**CONFIG))))
    return SentenceTransformer(modules=[encoder, Pooling(32, "mean"), Normalize()], device="cpu")


def test_an_embedder_keeps_its_pooling_and_normalization(embedder: SentenceTransformer) -> None:
    expected = embedder.encode(TEXTS, batch_size=5)
    assert fuse(embedder) is embedder
    assert any(isinstance(module, FusedEncoder) for module in embedder.modules())
    found = embedder.encode(TEXTS, batch_size=5)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (found * expected).sum(1).min() > 0.999
    # Texts differ from each other by more than rounding, so an answer at the wrong place would show.
    assert np.sort(found @ expected.T, axis=1)[:, -2].max() < 0.999


def test_each_of_many_callers_gets_the_answer_to_its_own_texts(embedder: SentenceTransformer) -> None:
    fuse(embedder)
    expected = embedder.encode(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: embedder.encode(TEXTS[row : row + 2]), range(len(TEXTS) - 1)))
    for row, pair in enumerate(found):
        assert np.allclose(pair, expected[row : row + 2], atol=1e-6), row


def test_linears_of_an_embedder_are_replaced(embedder: SentenceTransformer) -> None:
    for module in embedder.modules():
        if isinstance(module, nn.Linear):
            module.weight.data[:, ::2] = 0
            module.weight.data[:, 1::2] *= 1.5
    expected = embedder.encode(TEXTS)
    assert optimize(embedder) is embedder
    assert any(isinstance(module, RuntimeLinear) for module in embedder.modules())
    assert (embedder.encode(TEXTS) * expected).sum(1).min() > 0.999


def test_a_cross_encoder_gives_the_same_scores(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = BertForSequenceClassification(BertConfig(**CONFIG, num_labels=1))
    scorer = CrossEncoder(save(tmp_path, model), device="cpu")
    pairs = list(zip(TEXTS[:12], TEXTS[12:], strict=True))
    expected = scorer.predict(pairs, batch_size=5)
    found = fuse(scorer).predict(pairs, batch_size=5)
    assert np.ptp(expected) > 0.003 and np.abs(found - expected).max() < 0.1 * np.ptp(expected)


def test_what_holds_no_model_or_several_is_refused(embedder: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="Linear holds 0 models of transformers"):
        optimize(nn.Linear(2, 2))
    other = BertModel(BertConfig(**CONFIG))
    with pytest.raises(ValueError, match="ModuleList holds 2 models of transformers"):
        fuse(nn.ModuleList([embedder, other]))
