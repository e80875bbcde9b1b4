"""Pipelines of transformers give from a fused or an optimized model what they give from the model itself."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertForMaskedLM, Pipeline, PreTrainedModel, pipeline

from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime import fuse, optimize
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.fused_encoder import FusedEncoder
from hf_sparse.runtime.linear import RuntimeLinear
from hf_sparse.targets import find_targets
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.support.runtime_models import batch, build, config_of, prune

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")

TEXTS = ["the big cat sat on a mat .", "who sat ?", "a mat , in paris , where the cat sat on the mat"]
QUESTIONS = [("who sat on a mat ?", TEXTS[0]), ("where sat the cat ?", TEXTS[2])]
WAYS = {"fuse": (fuse, FusedEncoder), "optimize": (optimize, RuntimeLinear)}


def ready(head: str, seed: int = 7) -> PreTrainedModel:
    """Return a quantized model with a head, livelier than a fresh one, so that its answers differ."""
    model = masked_lm() if head == "masked" else build("bert", head)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.get_input_embeddings().parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    prune(model, 0.5)
    layers = {target.module for target in find_targets(model)}
    for module in model.modules():
        if isinstance(module, nn.Linear) and module not in layers:
            module.weight.data *= 10
    calibrate(model, [batch(seed=seed) for seed in range(3)])
    return model


def masked_lm() -> PreTrainedModel:
    torch.manual_seed(7)
    return BertForMaskedLM(config_of("bert")).eval()


def both(task: str, head: str, way: str, **options: object) -> tuple[Pipeline, Pipeline]:
    """Return the pipelines of a model and of its copy that runs in the kernels, in batches of two texts."""
    make, kind = WAYS[way]
    model = ready(head)
    fast = make(copy.deepcopy(model))
    assert any(isinstance(module, kind) for module in fast.modules())
    given = {"tokenizer": tokenizer(model_max_length=48), "device": "cpu", "batch_size": 2} | options
    return pipeline(task, model=model, **given), pipeline(task, model=fast, **given)


def close(found: list[float], expected: list[float]) -> None:
    """Compare scores, which a code more or less changes where a value lies between two."""
    assert np.ptp(expected) > 0.02
    assert found == pytest.approx(expected, abs=0.1 * float(np.ptp(expected)))


@pytest.mark.parametrize("way", WAYS)
def test_texts_are_classified(way: str) -> None:
    own, fast = both("text-classification", "sequence", way, top_k=None)
    expected, found = own(TEXTS), fast(TEXTS)
    scores = [{row["label"]: row["score"] for row in rows} for rows in expected]
    assert [rows[0]["label"] for rows in found] == [rows[0]["label"] for rows in expected]
    close(
        [row["score"] for rows in found for row in rows],
        [own_scores[row["label"]] for own_scores, rows in zip(scores, found, strict=True) for row in rows],
    )


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_classified(way: str) -> None:
    own, fast = both("token-classification", "token", way, ignore_labels=[])
    expected, found = sum(own(TEXTS), []), sum(fast(TEXTS), [])
    places = [(row["word"], row["start"], row["end"]) for row in expected]
    assert [(row["word"], row["start"], row["end"]) for row in found] == places and len(places) == 24
    shares = [
        [row["score"] if row["entity"] == "LABEL_0" else 1 - row["score"] for row in rows]
        for rows in (found, expected)
    ]
    close(*shares)


@pytest.mark.parametrize("way", WAYS)
def test_features_are_extracted(way: str) -> None:
    own, fast = both("feature-extraction", "base", way, return_tensors=True)
    for expected, found in zip(own(TEXTS, batch_size=1), fast(TEXTS, batch_size=1), strict=True):
        assert found.shape == expected.shape
        assert torch.cosine_similarity(found, expected, dim=-1).min() > 0.99


@pytest.mark.parametrize("way", WAYS)
def test_masked_words_are_filled(way: str) -> None:
    texts = ["the big [MASK] sat on a mat .", "[MASK] sat ?"]
    own, fast = both("fill-mask", "masked", way, top_k=90)
    for expected, found in zip(own(texts), fast(texts), strict=True):
        scores = {row["token"]: row["score"] for row in expected}
        assert [row["token_str"] for row in found[:1]] == [row["token_str"] for row in expected[:1]]
        close([row["score"] for row in found], [scores[row["token"]] for row in found])


@pytest.mark.parametrize("way", WAYS)
def test_questions_are_answered(way: str) -> None:
    """Transformers 5 left out the pipeline of this task, so the spans are read from the logits."""
    make, _ = WAYS[way]
    model = ready("answer")
    inputs = tokenizer()(*zip(*QUESTIONS, strict=True), padding=True, return_tensors="pt")
    contexts = inputs.pop("token_type_ids").bool()

    def answers(model: Callable) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            found = model(**inputs)
        sums = found.start_logits[:, :, None] + found.end_logits[:, None]
        allowed = (contexts[:, :, None] & contexts[:, None]).triu()
        return sums.masked_fill(~allowed, -torch.inf).flatten(1).argmax(1), sums[allowed]

    (expected, own), (found, fast) = answers(model), answers(make(copy.deepcopy(model)))
    assert torch.equal(found, expected)
    close(fast.tolist(), own.tolist())
