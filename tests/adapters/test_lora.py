"""The outputs of a SparseLora adapter, before and after it is merged."""

import copy

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as some
from peft import get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_sparse import SparseLoraConfig
from tests.adapters.adapted import (
    TOLERANCE,
    adapted,
    fill,
    logits,
    masked,
    plain,
    same_zeros,
    sparse_bert,
    sparse_gpt2,
)


def layer(rows: int, columns: int, transposed: bool, share: float, seed: int) -> nn.Module:
    """A sparse Linear or Conv1D alone in a model."""
    torch.manual_seed(seed)
    made = Conv1D(rows, columns) if transposed else nn.Linear(columns, rows)
    with torch.no_grad():
        made.weight.normal_().masked_fill_(torch.rand_like(made.weight) < share, 0.0)
    return nn.Sequential(made)


def parts(model: nn.Module) -> tuple[nn.Module, Tensor, Tensor, float]:
    tuned = model.base_model.model[0]
    return tuned, tuned.lora_A["default"].weight, tuned.lora_B["default"].weight, tuned.scaling["default"]


@settings(max_examples=40, deadline=None)
@given(
    sizes=some.tuples(some.integers(1, 24), some.integers(1, 24)),
    transposed=some.booleans(),
    share=some.sampled_from([0.0, 0.5, 0.9, 1.0]),
    rank=some.integers(1, 8),
    stabilized=some.booleans(),
    biased=some.booleans(),
    safe=some.booleans(),
    seed=some.integers(0, 9),
)
def test_what_is_merged_is_what_was_computed(
    sizes: tuple[int, int],
    transposed: bool,
    share: float,
    rank: int,
    stabilized: bool,
    biased: bool,
    safe: bool,
    seed: int,
) -> None:
    base = layer(*sizes, transposed, share, seed)
    before = base[0].weight.detach().clone()
    config = SparseLoraConfig(r=rank, target_modules=["0"], use_rslora=stabilized, lora_bias=biased)
    model = get_peft_model(base, config)
    fill(model, "default", seed)
    tuned, a, b, scaling = parts(model)
    inputs = torch.randn(5, sizes[1])

    update = (b @ a).detach() * scaling * ((before.t() if transposed else before) != 0)
    outputs = model(inputs).detach()
    shift = 0.0 if not biased else tuned.lora_B["default"].bias.detach() * scaling
    expected = base[0].base_layer(inputs).detach() + functional.linear(inputs, update) + shift
    torch.testing.assert_close(outputs, expected, **TOLERANCE)

    model.merge_adapter(safe_merge=safe)
    merged = tuned.base_layer.weight.detach().clone()
    assert torch.equal(merged == 0, (before == 0) | (merged == 0))
    torch.testing.assert_close(merged, before + (update.t() if transposed else update))
    torch.testing.assert_close(model(inputs), outputs, **TOLERANCE)

    model.unmerge_adapter()
    torch.testing.assert_close(tuned.base_layer.weight.detach(), before)
    assert torch.equal(tuned.base_layer.weight == 0, before == 0)
    torch.testing.assert_close(model(inputs), outputs, **TOLERANCE)


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_are_those_of_the_masked_product(transposed: bool) -> None:
    model = get_peft_model(layer(6, 9, transposed, 0.6, 0), SparseLoraConfig(r=3, target_modules=["0"]))
    fill(model, "default")
    tuned, a, b, scaling = parts(model)
    inputs, wanted = torch.randn(4, 9), torch.randn(4, 6)
    functional.mse_loss(model(inputs), wanted).backward()

    weight = tuned.base_layer.weight.detach()
    weight = weight.t() if transposed else weight
    ours, theirs = (part.detach().clone().requires_grad_() for part in (a, b))
    dense = weight + (theirs @ ours) * scaling * (weight != 0)
    functional.mse_loss(functional.linear(inputs, dense, tuned.base_layer.bias), wanted).backward()
    torch.testing.assert_close(a.grad, ours.grad)
    torch.testing.assert_close(b.grad, theirs.grad)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_merged_model_says_the_same_with_the_same_zeros(seed: int) -> None:
    model = adapted(sparse_bert(seed), masked(), seed)
    said, plainly = logits(model), logits(sparse_bert(seed))
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), said, **TOLERANCE)
    assert not torch.allclose(said, plainly, atol=0.1)
    assert same_zeros(merged, sparse_bert(seed))


def test_weights_that_lie_as_in_out_keep_their_zeros() -> None:
    config = masked(target_modules=["c_attn", "c_proj", "c_fc"], task_type="CAUSAL_LM")
    model = adapted(sparse_gpt2(), config)
    said = logits(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), said, **TOLERANCE)
    assert same_zeros(merged, sparse_gpt2())


def test_an_ordinary_adapter_fills_the_zeros() -> None:
    assert not same_zeros(adapted(sparse_bert(), plain()).merge_and_unload(), sparse_bert())


def test_infinite_updates_leave_zeros_alone() -> None:
    model = adapted(sparse_bert(), masked())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                parameter.fill_(torch.inf)
    assert same_zeros(model.merge_and_unload(), sparse_bert())


def test_ranks_and_scales_may_differ_from_layer_to_layer() -> None:
    config = masked(rank_pattern={"query": 2}, alpha_pattern={"value": 32}, lora_dropout=0.5)
    model = adapted(sparse_bert(), config)
    said = logits(model)
    torch.testing.assert_close(logits(model.merge_and_unload()), said, **TOLERANCE)


def test_dropout_is_applied_to_what_the_adapter_reads() -> None:
    model = get_peft_model(
        layer(8, 16, False, 0.5, 0), SparseLoraConfig(r=2, target_modules=["0"], lora_dropout=0.5)
    )
    fill(model, "default")
    inputs = torch.ones(1, 16)
    tuned, *_ = parts(model)
    torch.manual_seed(0)
    dropped = functional.dropout(inputs, 0.5)
    torch.manual_seed(0)
    expected = tuned.base_layer(inputs) + functional.linear(dropped, tuned.get_delta_weight("default"))
    torch.testing.assert_close(model.train()(inputs), expected)


def test_a_weight_that_is_merged_to_zero_by_chance_comes_back() -> None:
    base = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        base[0].weight.copy_(torch.tensor([[0.5, 0.0]]))
    model = get_peft_model(base, SparseLoraConfig(r=1, lora_alpha=1, target_modules=["0"]))
    tuned, a, b, _ = parts(model)
    with torch.no_grad():
        a.fill_(1.0), b.fill_(-0.5)
    model.merge_adapter()
    assert tuned.base_layer.weight.tolist() == [[0.0, 0.0]]
    model.add_adapter("other", SparseLoraConfig(r=1, lora_alpha=1, target_modules=["0"]))
    model.unmerge_adapter()
    assert tuned.base_layer.weight.tolist() == [[0.5, 0.0]]


def test_a_copy_keeps_the_mask() -> None:
    model = adapted(sparse_bert(), masked())
    assert torch.equal(logits(copy.deepcopy(model)), logits(model))


def test_weights_of_16_bits_are_rounded_once() -> None:
    base = sparse_bert().to(torch.bfloat16)
    model = adapted(copy.deepcopy(base), masked())
    weight = base.bert.encoder.layer[0].attention.self.query.weight
    tuned = model.base_model.model.bert.encoder.layer[0].attention.self.query
    expected = (weight.float() + tuned.get_delta_weight("default")).to(torch.bfloat16)
    merged = model.merge_and_unload()
    assert torch.equal(merged.bert.encoder.layer[0].attention.self.query.weight, expected)
    assert same_zeros(merged, base)
