"""NaN is never turned into a plausible answer: refused among weights, handed on from inputs to outputs."""

import math

import pytest
import torch

from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime import fuse, optimize
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.loader import ready
from tests.support.runtime_models import batch, build, quantized

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")
NORM = "bert.encoder.layer.0.output.LayerNorm.weight"


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_new", "silu"])
def test_nan_comes_out_where_nan_went_in(path: str, rounds: bool, activation: str) -> None:
    model = build(hidden_act=activation)
    if rounds:
        calibrate(model, [batch()])
    encoder = fuse(model).bert.encoder
    states = torch.randn(3, 19, 32)
    with torch.no_grad():
        clean = encoder(states).last_hidden_state
        states[1, 4, 3] = math.nan
        found = encoder(states).last_hidden_state
        # One that no token sees.
        mask = torch.ones(3, 19)
        mask[1, 4] = 0
        unseen = encoder(states, mask).last_hidden_state
        states[1, 4, 3] = math.inf
        infinite = encoder(states).last_hidden_state
    assert torch.equal(found[[0, 2]], clean[[0, 2]]) and torch.equal(infinite[[0, 2]], clean[[0, 2]])
    # Tokens look at each other, so one is enough for its sequence.
    assert found[1].isnan().all() and unseen.isfinite().all()
    assert infinite[1].isnan().all()


@pytest.mark.parametrize("make", [fuse, optimize, ready])
@pytest.mark.parametrize("name", ["bert.encoder.layer.1.output.dense.bias", "classifier.weight", NORM])
def test_weights_that_are_not_finite_are_refused_by_name(make, name: str) -> None:
    for rounds in (build, quantized):
        model = rounds()
        with torch.no_grad():
            model.get_parameter(name).view(-1)[0] = math.inf
        with pytest.raises(ValueError, match=f"{name} is not finite"):
            make(model)


@pytest.mark.parametrize("make", [fuse, optimize])
@pytest.mark.parametrize("rounds", [True, False])
def test_a_whole_model_answers_nan_where_an_embedding_is_nan(make, rounds: bool) -> None:
    model = make(quantized() if rounds else build())
    inputs = batch()
    with torch.no_grad():
        right = model(**inputs).logits
        inputs["input_ids"][1] = 5
        model.bert.embeddings.word_embeddings.weight[5] = math.nan
        inputs["input_ids"][[0, 2]] = batch()["input_ids"][[0, 2]].where(batch()["input_ids"][[0, 2]] != 5, 6)
        found = model(**inputs).logits
    assert right.isfinite().all() and found[1].isnan().all() and found[[0, 2]].isfinite().all()
