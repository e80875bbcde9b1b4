"""Layers for a few tokens: the outputs of a tile, and of the reference, bit for bit."""

import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime import optimize, reference
from hf_sparse.runtime.autotune import pack_layer
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.cpu import available_paths
from hf_sparse.runtime.integer_layer import FIXED, RANGE, SYMMETRIC, IntegerLayer
from hf_sparse.runtime.linear import RuntimeLinear
from hf_sparse.targets import find_targets
from tests.runtime.test_kernels import layer_of
from tests.support.runtime_models import quantized

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")
PATHS = available_paths()


def few(path: str, layer: IntegerLayer) -> RuntimeLinear:
    kernels = load_kernels(path)
    return RuntimeLinear(kernels, pack_layer(kernels, layer, few=True))


def in_a_tile(path: str, layer: IntegerLayer, values: torch.Tensor) -> torch.Tensor:
    kernels = load_kernels(path)
    return RuntimeLinear(kernels, pack_layer(kernels, layer))(values)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_outputs_are_those_of_the_reference_and_of_a_tile(path: str, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    rows, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 200))
    layer = layer_of(
        rows,
        columns,
        data.draw(st.sampled_from([0.0, 0.02, 0.2, 0.5, 0.9, 1.0])),
        data.draw(st.sampled_from([FIXED, SYMMETRIC, RANGE])),
        generator,
        data.draw(st.booleans()),
    )
    values = torch.randn(data.draw(st.integers(1, load_kernels(path).few)), columns, generator=generator)
    values *= data.draw(st.sampled_from([0.01, 1.0, 50.0]))
    found = few(path, layer)(values)
    assert torch.equal(found, reference.linear(layer, values))
    assert torch.equal(found, in_a_tile(path, layer, values))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dynamic", [FIXED, SYMMETRIC, RANGE])
@pytest.mark.parametrize("kept", [0.1, 1.0])
def test_values_that_are_not_finite_break_their_token_alone(path: str, dynamic: int, kept: float) -> None:
    generator = torch.Generator().manual_seed(1)
    layer = layer_of(33, 130, kept, dynamic, generator)
    values = torch.randn(4, 130, generator=generator)
    values[1, 129], values[2, 0], values[3, 7] = math.nan, math.inf, -math.inf
    found = few(path, layer)(values)
    assert torch.equal(found.nan_to_num(7.5), reference.linear(layer, values).nan_to_num(7.5))
    assert found[1].isnan().all() and found[0].isfinite().all()


@pytest.mark.parametrize("path", PATHS)
def test_the_largest_sums_do_not_overflow(path: str) -> None:
    codes = torch.full((2, 1 << 16), 127, dtype=torch.int8)
    codes[1] = -127
    layer = IntegerLayer(codes, torch.ones(2), None, FIXED, 1.0, 0)
    values = torch.full((1, 1 << 16), 255.0)
    assert torch.equal(few(path, layer)(values), reference.linear(layer, values))


def test_a_call_without_tokens_gives_none() -> None:
    layer = layer_of(5, 66, 0.1, RANGE, torch.Generator().manual_seed(0))
    assert few(PATHS[0], layer)(torch.empty(0, 66)).shape == (0, 5)


def test_several_threads_get_their_own_outputs() -> None:
    generator = torch.Generator().manual_seed(1)
    layer = layer_of(700, 900, 0.3, RANGE, generator)
    module, values = few(PATHS[0], layer), torch.randn(64, 900, generator=generator)
    expected = reference.linear(layer, values)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: module(values[row : row + 1]), range(64)))
    assert torch.equal(torch.cat(found), expected)


def decoder(sparsity: float, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=90, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval().to(dtype)
    for target in find_targets(model):
        with torch.no_grad():
            target.weight.mul_(6 * (torch.rand(target.weight.shape) >= sparsity))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_writes_the_same_text_token_by_token_as_at_once(dtype: torch.dtype) -> None:
    model = optimize(decoder(0.6, dtype))
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, RuntimeLinear) and layer.few is not None
    prompt = torch.randint(4, 90, (1, 9), generator=torch.Generator().manual_seed(2))
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(prompt, use_cache=True, **settings)
    for module in model.modules():
        if isinstance(module, RuntimeLinear):
            module.few = None
            module._bind(load_kernels())
    assert torch.equal(model.generate(prompt, use_cache=True, **settings), cached)


def test_a_quantized_decoder_computes_with_its_ranges() -> None:
    model = decoder(0.5)
    prompt = torch.randint(4, 90, (2, 9), generator=torch.Generator().manual_seed(2))
    calibrate(model, [{"input_ids": prompt}])
    with torch.no_grad():
        expected = model(prompt[:1, :3]).logits
        found = optimize(model)(prompt[:1, :3]).logits
    assert torch.allclose(found, expected, atol=1e-3)


def test_encoders_hold_their_weights_once() -> None:
    layers = [module for module in optimize(quantized()).modules() if isinstance(module, RuntimeLinear)]
    assert layers and all(layer.few is None for layer in layers)


def test_the_copy_for_a_few_tokens_counts_and_pickles() -> None:
    layer = layer_of(64, 128, 0.1, RANGE, torch.Generator().manual_seed(0))
    module = few(PATHS[0], layer)
    # A bit a column and a byte a code, beside what restores a row.
    assert module.few.nbytes == 64 * (16 + 3 * 4 + 8) + int((layer.codes != 0).sum()) + 64
    assert module.nbytes == module.packed.nbytes + module.few.nbytes
    values = torch.randn(2, 128)
    assert torch.equal(pickle.loads(pickle.dumps(module))(values), module(values))
