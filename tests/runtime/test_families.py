"""Every family of encoders beside BERT's: against PyTorch, the reference, and itself."""

import copy
import pickle
import threading

import pytest
import torch
from transformers import CONFIG_MAPPING

from hf_sparse.architectures import ENCODERS
from hf_sparse.checkpoint.packed.model import save_packed
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime import fuse, load, optimize
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.fused_encoder import FusedEncoder
from hf_sparse.runtime.integer_layer import quantized_linears
from tests.support.fused_reference import call, compare, encoded, encoder_of
from tests.support.runtime_models import (
    FAMILIES,
    HEADS_OF,
    IMAGES,
    build,
    inputs_of,
    outputs,
    prune,
    quantized,
)

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")
# GTE came with a later transformers than the oldest that is supported.
HERE = [name for name in FAMILIES if name in CONFIG_MAPPING]
TEXTS = [name for name in HERE if name not in IMAGES]
WITH_HEADS = [(name, head) for name in HERE for head in ("base", *HEADS_OF[name])]


@pytest.mark.parametrize(("name", "head"), WITH_HEADS)
def test_a_fused_model_gives_what_the_quantized_one_gives(name: str, head: str) -> None:
    model, inputs = quantized(name, head), inputs_of(name, length=43, seed=1)
    exact = outputs(model, inputs)
    fused = fuse(copy.deepcopy(model))
    compare(outputs(fused, inputs), exact, inputs.get("attention_mask"))
    assert encoder_of(fused).path == load_kernels().path


@pytest.mark.parametrize("name", HERE)
def test_a_plain_sparse_model_is_rounded_and_near(name: str) -> None:
    model, inputs = build(name, "base"), inputs_of(name, length=70)
    prune(model, 0.5)
    exact = outputs(model, inputs)["last_hidden_state"]
    found = outputs(fuse(model), inputs)["last_hidden_state"]
    mask = inputs.get("attention_mask", torch.ones(exact.shape[:2])).bool()
    # Rounding to 8 bits costs about a hundredth in each of the layers; a wrong position costs more.
    assert (found - exact)[mask].norm() < 0.06 * exact[mask].norm()


@pytest.mark.parametrize(
    ("name", "activations"),
    [*((name, "uint8_per_tensor") for name in HERE), ("modernbert", "none"), ("mpnet", "int8_per_token")],
)
def test_the_encoder_equals_the_reference_bit_for_bit(path: str, name: str, activations: str) -> None:
    model = build(name, "base")
    prune(model, 0.6)
    calibrate(model, [inputs_of(name)], activations=activations)
    generator = torch.Generator().manual_seed(5)
    names, length = ENCODERS[name], 53
    states = torch.randn(2, length, 20 if names.entrance else 32, generator=generator)
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, :6] = mask[1, 20:23] = mask[1, 40:] = 0
    entered = states
    with torch.no_grad():
        if names.entrance:
            entered = model.encoder.get_submodule(names.entrance)(states)
        expected = encoded(model, entered, mask, quantized_linears(model))
    encoder = encoder_of(fuse(model))
    assert encoder.path == path
    assert torch.equal(call(encoder, states, mask), expected)


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_any_length_equal_the_reference(name: str) -> None:
    model = build(name, "base", num_hidden_layers=2)
    prune(model, 0.9)
    calibrate(model, [inputs_of(name)])
    layers, names = quantized_linears(model), ENCODERS[name]
    generator = torch.Generator().manual_seed(6)
    before = copy.deepcopy(model)
    layers = quantized_linears(before)
    encoder = encoder_of(fuse(model))
    for length in (1, 2, 17, 64, 65, 513):
        states = torch.randn(1, length, 20 if names.entrance else 32, generator=generator)
        with torch.no_grad():
            entered = before.encoder.get_submodule(names.entrance)(states) if names.entrance else states
            expected = encoded(before, entered, torch.ones(1, length), layers)
        assert torch.equal(call(encoder, states), expected), length


@pytest.mark.parametrize("name", HERE)
def test_padding_company_and_threads_change_nothing(path: str, name: str) -> None:
    model = fuse(quantized(name, "base"))
    encoder, names = encoder_of(model), ENCODERS[name]
    states = torch.randn(4, 41, 20 if names.entrance else 32)
    mask = inputs_of("modernbert", 4, 41)["attention_mask"]
    mask[-1, :5] = 1
    together, threads = call(encoder, states, mask), torch.get_num_threads()
    for row in range(3):
        kept = mask[row].bool()
        assert torch.equal(call(encoder, states[row : row + 1, kept])[0], together[row, kept])
    assert not together[~mask.bool()].any()
    try:
        torch.set_num_threads(3)
        assert torch.equal(call(encoder, states, mask), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", HERE)
def test_several_callers_at_once_get_what_one_gets(name: str) -> None:
    model = fuse(quantized(name, "base"))
    inputs = [inputs_of(name, 1 + seed % 3, 12 + seed, seed) for seed in range(4)]
    expected = [outputs(model, each)["last_hidden_state"] for each in inputs]
    wrong = []

    def ask(index: int) -> None:
        for _ in range(10):
            if not torch.equal(outputs(model, inputs[index])["last_hidden_state"], expected[index]):
                wrong.append(index)

    callers = [threading.Thread(target=ask, args=(index,)) for index in range(len(inputs))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("name", HERE)
def test_numbers_that_are_not_finite_stay_in_their_text(name: str) -> None:
    encoder = encoder_of(fuse(quantized(name, "base", activations="none")))
    states = torch.randn(3, 19, 20 if ENCODERS[name].entrance else 32)
    clean = call(encoder, states)
    states[1, 4, 7], states[2, 0, 3] = float("nan"), float("inf")
    found = call(encoder, states)
    assert torch.equal(found[0], clean[0]) and found[1:].isnan().all()
    assert call(encoder, states[:, :0]).shape == clean[:, :0].shape
    assert not call(encoder, states, torch.zeros(3, 19)).any()


@pytest.mark.parametrize("name", HERE)
def test_a_packed_directory_gives_what_the_model_gave(name: str, tmp_path) -> None:
    head = HEADS_OF[name][0]
    model, inputs = quantized(name, head), inputs_of(name)
    save_packed(model, tmp_path)
    found = load(tmp_path)
    assert len(encoder_of(found).layers) == model.config.num_hidden_layers
    assert torch.equal(outputs(found, inputs)["logits"], outputs(fuse(model), inputs)["logits"])


@pytest.mark.parametrize("name", HERE)
def test_a_fused_model_copies_and_pickles(name: str) -> None:
    model, inputs = fuse(quantized(name, "base")), inputs_of(name)
    expected = outputs(model, inputs)["last_hidden_state"]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(encoder_of(model)))):
        if isinstance(other, FusedEncoder):
            assert other.nbytes == encoder_of(model).nbytes
            continue
        assert torch.equal(outputs(other, inputs)["last_hidden_state"], expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", TEXTS)
def test_either_attention_of_transformers_gives_the_mask(name: str, attention: str) -> None:
    if name == "mpnet" and attention == "sdpa":
        pytest.skip("it computes its attention itself")
    model, inputs = quantized(name, "base"), inputs_of(name)
    expected = outputs(fuse(copy.deepcopy(model)), inputs)["last_hidden_state"]
    model.set_attn_implementation(attention)
    assert torch.equal(outputs(fuse(model), inputs)["last_hidden_state"], expected)


@pytest.mark.parametrize("name", HERE)
def test_inner_states_are_refused(name: str) -> None:
    model, inputs = fuse(build(name, "base")), inputs_of(name)
    with pytest.raises(ValueError, match="output_hidden_states is set"):
        model(**inputs, output_hidden_states=True)


def test_a_packed_model_that_cannot_be_fused_is_optimized(tmp_path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model, inputs = build("nomic_bert", "sequence", rope_parameters=rope), inputs_of("nomic_bert")
    calibrate(model, [inputs])
    save_packed(model, tmp_path)
    assert torch.equal(outputs(load(tmp_path), inputs)["logits"], outputs(optimize(model), inputs)["logits"])


def test_layers_of_albert_are_packed_once() -> None:
    model, inputs = build("albert", "base", inner_group_num=2), inputs_of("albert")
    exact = outputs(model, inputs)
    fused = fuse(model)
    compare(outputs(fused, inputs), exact, inputs["attention_mask"])
    encoder = encoder_of(fused)
    # Three calls of groups of two layers: the first group twice.
    first, second, *_ = encoder.layers
    assert [layer in (first, second) for layer in encoder.layers] == [True] * 4 + [False] * 2
    assert encoder.layers[:2] == encoder.layers[2:4]
    # The Linear before the layers computes in PyTorch.
    assert encoder.embedding_hidden_mapping_in.in_features == 20


@pytest.mark.parametrize(
    ("name", "more", "reason"),
    [
        ("modernbert", {"layer_types": ["sliding_attention"] * 4}, "no layer of it sees whole texts"),
        (
            "nomic_bert",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rotary embeddings are dynamic",
        ),
        ("eurobert", {"hidden_act": "mish"}, "activation mish"),
        ("vit", {"intermediate_size": 52, "num_attention_heads": 4, "head_dim": 4}, "layers of this encoder"),
    ],
)
def test_what_cannot_be_fused_is_refused_with_the_reason(name: str, more: dict, reason: str) -> None:
    model = build(name, "base", **more)
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=reason):
        fuse(model)
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize(
    "name", [name for name in ("modernbert", "nomic_bert", "deberta-v2", "vit") if name in HERE]
)
@pytest.mark.parametrize("activations", ["uint8_per_tensor", "int8_per_token"])
def test_numbers_that_are_not_finite_give_what_the_reference_gives(name: str, activations: str) -> None:
    model = quantized(name, "base", activations=activations)
    states = torch.randn(4, 21, 32, generator=torch.Generator().manual_seed(9))
    states[1, 2, 5], states[2, 20, 0], states[3, 7, 31] = float("nan"), float("inf"), -3e38
    with torch.no_grad():
        expected = encoded(model, states, torch.ones(4, 21), quantized_linears(model))
    found = call(encoder_of(fuse(model)), states)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert found[0].isfinite().all() and found[1].isnan().all()
