"""The fused encoder against the reference, the fake-quantized model and itself on other paths."""

import copy
import pickle
import threading

import pytest
import torch
from transformers import BertConfig, BertModel

from hf_sparse.architectures import BERT
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime import fuse
from hf_sparse.runtime.bindings import ACTIVATIONS, load_kernels
from hf_sparse.runtime.encoders import layer_reference
from hf_sparse.runtime.encoders.encoder_parts import encoder_layers
from hf_sparse.runtime.fused_encoder import FusedEncoder, kept_tokens
from hf_sparse.runtime.integer_layer import integer_layer, quantized_linears
from tests.support.runtime_models import batch, build, outputs, prune, quantized

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert"])
@pytest.mark.parametrize("head", ["sequence", "token", "answer"])
def test_a_fused_model_gives_what_the_quantized_one_gives(name: str, head: str) -> None:
    model, inputs = quantized(name, head), batch(rows=3, length=31, seed=1)
    exact = outputs(model, inputs)
    found = outputs(fuse(copy.deepcopy(model)), inputs)
    assert found.keys() == exact.keys()
    kept = inputs["attention_mask"].bool()
    for key, value in exact.items():
        # Of tokens that are left out nothing is promised.
        one, other = (
            v[kept] if v.dim() > 1 and v.shape[:2] == kept.shape else v for v in (found[key], value)
        )
        # A code more or less where a value lies between two.
        assert (one - other).abs().mean() < 0.02 * other.abs().mean() + 1e-3
        torch.testing.assert_close(one, other, rtol=0, atol=0.1 * float(other.abs().max()))


@pytest.mark.parametrize("activations", ["uint8_per_tensor", "int8_per_token", "none"])
@pytest.mark.parametrize("act", ["gelu", "relu", "gelu_new", "silu"])
def test_the_encoder_equals_the_reference_bit_for_bit(path: str, activations: str, act: str) -> None:
    model = build(hidden_act=act)
    prune(model, 0.6)
    calibrate(model, [batch()], activations=activations)
    base = model.bert
    layers = quantized_linears(base)
    states = torch.randn(2, 23, 32, generator=torch.Generator().manual_seed(5))
    mask = torch.ones(2, 23, dtype=torch.long)
    mask[1, :6] = mask[1, 15:] = 0
    expected = torch.zeros_like(states)
    for row, kept in enumerate(mask.bool()):
        tokens = states[row, kept]
        for _, layer, linears in encoder_layers(base, BERT):
            six = [
                integer_layer(part, linear, layers[linear])
                for part, linear in zip(BERT.linears, linears, strict=True)
            ]
            norms = [layer.attention.output.LayerNorm, layer.output.LayerNorm]
            tokens = layer_reference.encoder_layer(
                six,
                tuple((norm.weight.detach(), norm.bias.detach()) for norm in norms),
                4,
                ACTIVATIONS[act],
                norms[0].eps,
                tokens,
            )
        expected[row, kept] = tokens
    encoder = fuse(model).bert.encoder
    assert isinstance(encoder, FusedEncoder) and encoder.path == path
    with torch.no_grad():
        assert torch.equal(encoder(states, mask).last_hidden_state, expected)


def test_padding_and_company_change_nothing(path: str) -> None:
    encoder, mask = fuse(quantized()).bert.encoder, batch(rows=4, length=41)["attention_mask"]
    states = torch.randn(4, 41, 32)
    together = encoder(states, mask).last_hidden_state
    for row in range(4):
        kept = mask[row].bool()
        assert torch.equal(encoder(states[row : row + 1, kept]).last_hidden_state[0], together[row, kept])
        assert not together[row, ~kept].any()


def test_threads_change_nothing(path: str) -> None:
    encoder, mask = fuse(quantized()).bert.encoder, batch(rows=5, length=40)["attention_mask"]
    states = torch.randn(5, 40, 32)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found += [encoder(states, mask).last_hidden_state for _ in range(10)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, found[0]) for each in found)


def test_several_callers_at_once_get_what_one_gets() -> None:
    model = fuse(quantized())
    inputs = [batch(rows=1 + seed % 3, length=10 + seed, seed=seed) for seed in range(8)]
    expected = [outputs(model, each)["logits"] for each in inputs]
    wrong, threads = [], torch.get_num_threads()

    def call(index: int) -> None:
        for _ in range(50):
            if not torch.equal(outputs(model, inputs[index])["logits"], expected[index]):
                wrong.append(index)

    torch.set_num_threads(2)
    try:
        callers = [threading.Thread(target=call, args=(index,)) for index in range(len(inputs))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(threads)
    assert not wrong


def test_a_plain_sparse_model_is_rounded_and_near() -> None:
    model, inputs = build(), batch(rows=2, length=30)
    prune(model, 0.8)
    exact = outputs(model, inputs)["logits"]
    assert (outputs(fuse(model), inputs)["logits"] - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_dense_model_works_too() -> None:
    model, inputs = build(), batch(rows=2, length=30)
    exact = outputs(model, inputs)["logits"]
    assert (outputs(fuse(model), inputs)["logits"] - exact).abs().max() < 0.05 * exact.abs().max()


def test_hidden_sizes_that_nothing_divides_work() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=30, num_hidden_layers=2, num_attention_heads=2, intermediate_size=41
    )
    model = BertModel(config).eval()
    inputs = {"input_ids": torch.arange(4, 23)[None]}
    exact = outputs(model, inputs)
    found = outputs(fuse(copy.deepcopy(model)), inputs)
    for key in exact:
        torch.testing.assert_close(found[key], exact[key], rtol=0, atol=0.05)


def test_other_masks_are_read_as_models_make_them() -> None:
    kept = torch.tensor([[1, 1, 0], [1, 0, 0]])
    expected = kept.to(torch.uint8)
    four = kept[:, None, None].bool()
    assert torch.equal(kept_tokens(four.expand(2, 1, 3, 3), 2, 3), expected)
    added = torch.zeros(2, 1, 3, 3).masked_fill(~four, torch.finfo(torch.float32).min)
    assert torch.equal(kept_tokens(added, 2, 3), expected)
    assert torch.equal(kept_tokens(kept, 2, 3), expected)
    assert kept_tokens(None, 2, 3) is None
    with pytest.raises(ValueError, match="see different tokens"):
        kept_tokens(torch.ones(3, 3).tril().bool().expand(2, 1, 3, 3), 2, 3)
    with pytest.raises(ValueError, match="does not fit 2 x 3"):
        kept_tokens(torch.ones(2, 4), 2, 3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_either_attention_of_transformers_gives_the_mask(attention: str) -> None:
    model, inputs = quantized(), batch(rows=3, length=17)
    expected = outputs(fuse(copy.deepcopy(model)), inputs)["logits"]
    model.set_attn_implementation(attention)
    assert torch.equal(outputs(fuse(model), inputs)["logits"], expected)


def test_a_batch_without_tokens_gives_zeros() -> None:
    encoder = fuse(quantized()).bert.encoder
    with torch.no_grad():
        assert not encoder(torch.randn(2, 5, 32), torch.zeros(2, 5)).last_hidden_state.any()
        assert encoder(torch.randn(2, 0, 32)).last_hidden_state.shape == (2, 0, 32)


def test_a_fused_model_copies_and_pickles() -> None:
    encoder, states = fuse(quantized()).bert.encoder, torch.randn(2, 9, 32)
    with torch.no_grad():
        expected = encoder(states).last_hidden_state
        for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
            assert torch.equal(other(states).last_hidden_state, expected)


def test_attention_of_long_sequences_keeps_its_precision(path: str) -> None:
    torch.manual_seed(0)
    kernels = load_kernels()
    model = BertModel(
        BertConfig(
            vocab_size=9,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=1300,
        )
    ).eval()
    calibrate(model, [{"input_ids": torch.randint(9, (1, 1300))}], activations="int8_per_token")
    states = torch.randn(1, 1300, 16)
    layers = quantized_linears(model)
    ((_, layer, linears),) = encoder_layers(model, BERT)
    norms = [layer.attention.output.LayerNorm, layer.output.LayerNorm]
    expected = layer_reference.encoder_layer(
        [integer_layer("", linear, layers[linear]) for linear in linears],
        tuple((norm.weight.detach(), norm.bias.detach()) for norm in norms),
        2,
        ACTIVATIONS["gelu"],
        norms[0].eps,
        states[0],
    )
    assert kernels.path == path
    assert torch.equal(fuse(model).encoder(states).last_hidden_state[0], expected)
