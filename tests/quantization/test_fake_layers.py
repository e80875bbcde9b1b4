"""Quantized layers inside whole models: same parameters, shared inputs, ranges that behave."""

import copy
import io

import pytest
import torch
from torch import nn
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from hf_sparse import find_targets
from hf_sparse.quantization import fake_layers as linear
from hf_sparse.quantization import shared_inputs as sharing
from hf_sparse.quantization.activations import observe, simulate
from hf_sparse.quantization.convert import attach, detach
from hf_sparse.quantization.fake_layers import FakeQuantConv1D, FakeQuantLinear, Phase
from hf_sparse.quantization.weights import WeightScheme, read_weight_scheme
from tests.support.tiny import bert, llama, sentences

QUERY = "bert.encoder.layer.0.attention.self.query"


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def distilbert() -> DistilBertForSequenceClassification:
    torch.manual_seed(0)
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=100, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
    )


def batch() -> dict[str, torch.Tensor]:
    rows = sentences(8)
    return {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "attention_mask")}


def quantized(
    model: PreTrainedModel, weights: str = "int8_per_channel", activations: str = "uint8_per_tensor"
) -> tuple[PreTrainedModel, Phase]:
    phase = Phase()
    attach(find_targets(model), read_weight_scheme(weights), activations, "moving_average", phase)
    return model, phase


@pytest.mark.parametrize("make", [bert, llama, gpt2])
def test_parameters_and_their_names_stay_and_so_does_what_is_saved(make) -> None:
    model, plain = make(), make()
    parameters = {name: id(value) for name, value in model.named_parameters()}
    quantized(model)
    assert {name: id(value) for name, value in model.named_parameters()} == parameters
    assert model.state_dict().keys() == plain.state_dict().keys()
    kinds = {type(target.module) for target in find_targets(model)}
    assert kinds == ({FakeQuantConv1D} if make is gpt2 else {FakeQuantLinear})


@pytest.mark.parametrize("make", [bert, llama, gpt2])
def test_detaching_gives_the_model_back_bit_for_bit(make) -> None:
    model = make().eval()
    expected = model(**batch()).logits
    quantized(model)
    model.train()(**batch())
    detach(model)
    assert torch.equal(model.eval()(**batch()).logits, expected)
    assert not any(
        hasattr(module, "quantization") or hasattr(module, "input_low") for module in model.modules()
    )


@pytest.mark.parametrize("make", [bert, llama, gpt2])
@pytest.mark.parametrize("activations", ["uint8_per_tensor", "int8_per_token", "none"])
def test_eight_bits_change_little_and_something(make, activations: str) -> None:
    model = make().eval()
    expected = model(**batch()).logits
    quantized(model, activations=activations)
    model.train()(**batch())
    found = model.eval()(**batch()).logits
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_layer_computes_with_its_rounded_weight_and_input() -> None:
    module = nn.Module()
    module.layers = nn.ModuleList([nn.Linear(16, 8)])
    scheme = WeightScheme()
    attach(find_targets(module), scheme, "uint8_per_tensor", "min_max", Phase())
    layer, values = module.layers[0], torch.randn(4, 16)
    found = layer(values)
    low, high = values.min(), values.max()
    assert (layer.input_low, layer.input_high) == (low, high)
    expected = simulate(values, low, high) @ scheme.simulate(layer.weight).t() + layer.bias
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_gradient_of_the_weight_is_that_of_a_plain_layer_at_the_rounded_values() -> None:
    module = nn.Module()
    module.layers = nn.ModuleList([nn.Linear(16, 8)])
    attach(find_targets(module), WeightScheme(), "none", "min_max", Phase())
    values = torch.randn(4, 16)
    module.layers[0](values).square().sum().backward()
    rounded = WeightScheme().simulate(module.layers[0].weight).detach().requires_grad_()
    (values @ rounded.t() + module.layers[0].bias.detach()).square().sum().backward()
    assert torch.allclose(module.layers[0].weight.grad, rounded.grad, rtol=1e-5)


def test_layers_that_read_one_input_have_one_range_and_round_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(linear, "observe", lambda *parts: seen.append(parts[1]) or observe(*parts))
    model, _ = quantized(bert().train())
    model(**batch())
    attention = model.bert.encoder.layer[0].attention.self
    ranges = {
        (layer.input_low.item(), layer.input_high.item())
        for layer in attention.children()
        if hasattr(layer, "input_low")
    }
    assert len(ranges) == 1
    # Of six layers in each of two blocks, query, key and value share.
    assert len(seen) == 2 * 4


def test_sharing_gives_what_each_layer_alone_would() -> None:
    shared, _ = quantized(bert().train())
    alone, _ = quantized(bert().train())
    for target in find_targets(alone):
        target.module.quantization.readers = None
    losses = []
    for model in (shared, alone):
        torch.manual_seed(0)
        loss = model(**batch(), labels=torch.tensor([0, 1] * 4)).loss
        loss.backward()
        losses.append(loss)
    assert torch.equal(*losses)
    for one, other in zip(find_targets(shared), find_targets(alone), strict=True):
        assert torch.allclose(one.weight.grad, other.weight.grad, rtol=1e-4, atol=1e-9)
        assert torch.equal(one.module.input_low, other.module.input_low)


def test_a_shared_input_is_let_go_once_all_have_read_it() -> None:
    model, _ = quantized(bert().train())
    model(**batch())
    assert sharing._LAST.rounded is None


def test_phases_switch_all_layers_at_once() -> None:
    model = bert().eval()
    plain = model(**batch()).logits
    _, phase = quantized(model)
    phase.active = False
    assert torch.equal(model.train(False)(**batch()).logits, plain)
    phase.active, phase.observing = True, False
    model.train()(**batch())
    assert not any(target.module.quantization.seen for target in find_targets(model))
    phase.observing = True
    model(**batch())
    assert all(target.module.quantization.seen for target in find_targets(model))


def test_evaluation_moves_no_range() -> None:
    model, _ = quantized(bert().train())
    model(**batch())
    before = [target.module.input_low.clone() for target in find_targets(model)]
    other = {name: value.flip(1) for name, value in batch().items()}
    model.eval()(**other)
    assert all(
        torch.equal(t.module.input_low, low) for t, low in zip(find_targets(model), before, strict=True)
    )


def test_recomputation_under_checkpointing_sees_what_the_forward_pass_saw() -> None:
    gradients = []
    for checkpointing in (False, True):
        model, _ = quantized(bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train())
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        for _ in range(2):
            model.zero_grad()
            model(**batch(), labels=torch.tensor([0, 1] * 4)).loss.backward()
        gradients.append([target.weight.grad for target in find_targets(model)])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("make", [distilbert, bert, llama])
def test_a_model_can_be_copied_right_after_a_training_pass(make) -> None:
    model, _ = quantized(make().train())
    model(**batch())
    assert any(target.module.quantization.readers for target in find_targets(model))
    copy.deepcopy(model)


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_a_copy_is_whole_and_independent(copied: str) -> None:
    model, _ = quantized(bert().train())
    model(**batch())
    if copied == "deepcopy":
        other = copy.deepcopy(model)
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert torch.equal(other.eval()(**batch()).logits, model.eval()(**batch()).logits)
    low = model.get_submodule(QUERY).input_low.item()
    other.train().get_submodule(QUERY)(torch.full((1, 32), -100.0))
    assert other.get_submodule(QUERY).input_low.item() < low == model.get_submodule(QUERY).input_low.item()


def test_zeros_of_weights_enter_the_product_as_zeros() -> None:
    model = bert()
    with torch.no_grad():
        for target in find_targets(model):
            target.weight[target.weight.abs() < 0.02] = 0.0
    for target in find_targets(model):
        simulated = WeightScheme().simulate(target.weight)
        assert not simulated[target.weight == 0].any()


def test_what_cannot_be_quantized_is_refused_by_name() -> None:
    class Own(nn.Linear):
        pass

    module = nn.Module()
    module.layers = nn.ModuleList([Own(4, 4)])
    with pytest.raises(ValueError, match="layers.0.weight belongs to a Own, which cannot be quantized"):
        attach(find_targets(module), WeightScheme(), "none", "min_max", Phase())
    with pytest.raises(ValueError, match="int4_group_5 does not cover"):
        attach(find_targets(bert()), read_weight_scheme("int4_group_5"), "none", "min_max", Phase())
