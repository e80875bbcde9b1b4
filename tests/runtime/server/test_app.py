"""The answers of served models are those of the pipeline and of sentence-transformers."""

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    pipeline,
)

from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.server.app import EmbeddingRequest, PredictRequest, embeddings, predict
from hf_sparse.runtime.server.batches import Batches
from hf_sparse.runtime.server.served_model import Served, load_served
from tests.data.tiny_tokenizers import bert as tokenizer

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=16,
    initializer_range=0.3,
)
TEXTS = ["the big cat sat on a mat .", "who sat ?", "where ?", "a mat in paris " * 9]


def run(served: Served, ask: Callable[[Batches[Any]], Any]) -> Any:
    batches = Batches(served.answer, most=3, waiting=9)
    try:
        return asyncio.run(ask(batches))
    finally:
        batches.close()


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    torch.manual_seed(0)
    BertForSequenceClassification(CONFIG).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.fixture
def embedder(tmp_path: Path) -> str:
    torch.manual_seed(0)
    BertModel(CONFIG).save_pretrained(tmp_path / "encoder")
    tokenizer().save_pretrained(tmp_path / "encoder")
    modules = [Transformer(str(tmp_path / "encoder"), max_seq_length=16), Pooling(32, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "embedder"))
    return str(tmp_path / "embedder")


def test_texts_are_classified_as_by_the_pipeline(classifier: str) -> None:
    own = pipeline("text-classification", model=classifier, top_k=None, device="cpu")
    expected = own(TEXTS, truncation=True, max_length=16)
    served = load_served(classifier)
    assert served.task == "predict" and served.name == classifier
    found = run(served, lambda batches: predict(batches, PredictRequest(inputs=TEXTS)))
    for theirs, ours in zip(expected, found, strict=True):
        scores = {row["label"]: row["score"] for row in theirs}
        assert [row["score"] for row in ours] == pytest.approx(
            [scores[row["label"]] for row in ours], abs=0.02
        )
    alone = run(served, lambda batches: predict(batches, PredictRequest(inputs=TEXTS[0])))
    assert [row["label"] for row in alone] == [row["label"] for row in found[0]]


def test_texts_are_embedded_as_by_the_model(embedder: str) -> None:
    expected = SentenceTransformer(embedder, device="cpu").encode(TEXTS)
    served = load_served(embedder)
    assert served.task == "embeddings"
    answer = run(served, lambda batches: embeddings(served, batches, EmbeddingRequest(input=TEXTS)))
    assert [row["index"] for row in answer["data"]] == list(range(4)) and answer["model"] == embedder
    found = np.array([row["embedding"] for row in answer["data"]])
    assert (found * expected).sum(1).min() > 0.99
    # Of the last text, 16 tokens are left.
    assert answer["usage"] == {"prompt_tokens": 10 + 5 + 4 + 16, "total_tokens": 35}
    request = EmbeddingRequest(input=TEXTS[0], encoding_format="base64")
    (row,) = run(served, lambda batches: embeddings(served, batches, request))["data"]
    decoded = np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4")
    assert np.allclose(decoded, found[0], atol=1e-5)


def test_a_classifier_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    BertForSequenceClassification(CONFIG).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="comes without a tokenizer; save it there"):
        load_served(str(tmp_path))


def test_models_that_answer_neither_labels_nor_vectors_are_refused(tmp_path: Path, classifier: str) -> None:
    CrossEncoder(classifier, device="cpu").save_pretrained(str(tmp_path / "pairs"))
    with pytest.raises(ValueError, match="a BertForSequenceClassification of sentence-transformers; only"):
        load_served(str(tmp_path / "pairs"))
    BertForTokenClassification(CONFIG).save_pretrained(tmp_path / "tokens")
    with pytest.raises(ValueError, match="a BertForTokenClassification; only classifiers of single texts"):
        load_served(str(tmp_path / "tokens"))


@pytest.mark.parametrize("given", [{"input": []}, {"input": [1]}, {}, {"input": "a", "dimensions": 8}])
def test_requests_that_are_not_understood_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EmbeddingRequest(**given)
