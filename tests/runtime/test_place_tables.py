"""Positions that callers give, lengths of texts, and relative positions of DeBERTa."""

import pytest
import torch

from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime import fuse
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.integer_layer import quantized_linears
from tests.support.fused_reference import call, compare, encoded, encoder_of
from tests.support.runtime_models import build, inputs_of, outputs, quantized

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")


def test_positions_that_a_caller_gives_are_used() -> None:
    model, inputs = quantized("modernbert", "base"), inputs_of("modernbert", rows=2)
    inputs["position_ids"] = torch.stack([torch.arange(20) * 3, torch.arange(20).flip(0)])
    exact = outputs(model, inputs)
    fused = fuse(model)
    compare(outputs(fused, inputs), exact, inputs["attention_mask"])
    for position in (-1, 600):
        inputs["position_ids"][0, 3] = position
        with pytest.raises(ValueError, match="positions from 0 to 599"):
            outputs(fused, inputs)


def test_longer_texts_than_the_tables_of_biases_reach_are_refused() -> None:
    encoder = encoder_of(fuse(build("mpnet", "base", max_position_embeddings=50)))
    with pytest.raises(ValueError, match="51 tokens, and this model was made for 50"):
        call(encoder, torch.randn(1, 51, 32))


@pytest.mark.parametrize("kinds", [["c2p", "p2c"], ["c2p"], ["p2c"]])
@pytest.mark.parametrize("shared", [True, False])
def test_all_kinds_of_relative_positions_of_deberta(path: str, shared: bool, kinds: list[str]) -> None:
    more = {"share_att_key": shared, "pos_att_type": kinds, "num_hidden_layers": 1, "position_buckets": -1}
    model = build("deberta-v2", "base", **more, max_relative_positions=11)
    calibrate(model, [inputs_of("deberta-v2")])
    states, mask = torch.randn(1, 37, 32), torch.ones(1, 37)
    mask[0, 7:9] = 0
    with torch.no_grad():
        expected = encoded(model, states, mask, quantized_linears(model))
        near = model.encoder(states, mask).last_hidden_state
    found = call(encoder_of(fuse(model)), states, mask)
    assert torch.equal(found, expected)
    assert (found - near)[mask.bool()].norm() < 0.05 * near[mask.bool()].norm()


def test_deberta_with_a_convolution_is_refused() -> None:
    with pytest.raises(ValueError, match="convolution beside its first layer"):
        fuse(build("deberta-v2", "base", conv_kernel_size=3))
