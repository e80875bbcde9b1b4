"""Pruning in one shot, and a training loop of one's own."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import hf_sparse
from hf_sparse import find_targets, measure_sparsity
from hf_sparse.checkpoint.sparsity_record import lost_zeros, read_sparsity_record
from hf_sparse.sparsity.masks import Masks
from tests.support.tiny import SIZES, bert, sentences


def gpt2() -> GPT2LMHeadModel:
    """Return a tiny GPT-2, whose weights are stored as (in, out)."""
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 32, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def counts(masks: Masks) -> set[float]:
    return {round(masks.removed(name) / masks[name].numel(), 2) for name in masks.targets.names}


def test_one_call_prunes_every_target_exactly() -> None:
    model = bert()
    masks = hf_sparse.prune(model, 0.9)
    expected = sum(int(0.9 * target.weight.numel()) for target in find_targets(model))
    assert measure_sparsity(model).zeros == expected == sum(map(masks.removed, masks.targets.names))


@pytest.mark.parametrize("pattern", ["1x4", "4x4", "32x32", "row", "column", "2:4"])
def test_any_pattern(pattern: str) -> None:
    # A square of 32 x 32 is the whole of one of the small matrices, of which half a block cannot go.
    assert counts(hf_sparse.prune(bert(), 0.5, pattern)) == ({0.0, 0.5} if pattern == "32x32" else {0.5})


@pytest.mark.parametrize("allocation", ["global", "erk"])
def test_allocations_share_the_sparsity_unequally(allocation: str) -> None:
    model = bert()
    with torch.no_grad():
        find_targets(model).found[0].weight.mul_(0.1)
    masks = hf_sparse.prune(model, 0.5, allocation=allocation)
    assert len(counts(masks)) > 1
    assert masks.sparsity == pytest.approx(0.5, abs=1e-3)


def test_overrides_and_exclusions() -> None:
    overrides = {"output": 0.25, "key": {"pattern": "4x4", "sparsity": 0.5}}
    masks = hf_sparse.prune(bert(), 0.8, exclude=["layer.1"], overrides=overrides)
    shares = {name: masks.removed(name) / masks[name].numel() for name in masks.targets.names}
    assert not any("layer.1" in name for name in shares)
    assert {round(share, 2) for name, share in shares.items() if "output" in name} == {0.25}
    assert {round(share, 2) for name, share in shares.items() if "key" in name} == {0.5}
    assert {round(share, 2) for name, share in shares.items() if "query" in name} == {0.8}


def test_the_configuration_records_what_was_removed() -> None:
    model = bert()
    hf_sparse.prune(model, 0.9, "4x4")
    contract = read_sparsity_record(model)
    assert (contract.pattern, contract.target) == ("4x4", 0.9) and lost_zeros(model) == {}


def test_pruning_twice_adds_to_what_is_gone() -> None:
    model = bert()
    first = hf_sparse.prune(model, 0.5)
    second = hf_sparse.prune(model, 0.8)
    assert all(not (second[name] & ~first[name]).any() for name in first.targets.names)


def test_a_model_that_is_sparser_already_is_refused() -> None:
    model = bert()
    hf_sparse.prune(model, 0.9)
    with pytest.raises(ValueError, match="are zero already, more than the"):
        hf_sparse.prune(model, 0.5)


def test_the_way_out_does_not_raise_a_sparsity_that_the_pattern_fixes() -> None:
    model = gpt2()
    hf_sparse.prune(model, 0.6)
    with pytest.raises(
        ValueError, match=r"since pattern 2:4 fixes the sparsity, or use method lock"
    ) as caught:
        hf_sparse.prune(model, 0.5, pattern="2:4")
    assert "raise sparsity.schedule.final" not in str(caught.value)


def test_two_of_four_inputs_of_a_transposed_weight_stay() -> None:
    model = gpt2()
    hf_sparse.prune(model, 0.5, pattern="2:4")
    for target in find_targets(model):
        assert ((target.weight != 0).reshape(-1, 4).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "share of weights to remove"),
        ({"sparsity": 0.9, "pattern": "2:4"}, "pattern 2:4 removes 0.5 of every weight, got 0.9"),
        ({"sparsity": 0.9, "pattern": "5x5"}, "pattern 5x5 does not tile"),
        ({"sparsity": 0.9, "method": "lock"}, "method lock keeps the zeros the model comes with"),
        ({"sparsity": 0.9, "method": "best"}, "sparsity.method is 'best': choose one of"),
        ({"sparsity": 0.9, "allocation": "best"}, "sparsity.allocation is 'best': choose one of"),
        ({"sparsity": 0.5, "pattern": "2:4", "allocation": "erk"}, "allocation erk has nothing to allocate"),
        ({"sparsity": 0.9, "overrides": {"layer.9": 0.5}}, "matches no target"),
        (
            {"sparsity": 0.5, "pattern": "2:4", "overrides": {"layer.0": 0.9}},
            "pattern 2:4 removes 0.5 of every",
        ),
        ({"sparsity": 0.5, "include": "layer"}, "sparsity.include is 'layer'"),
        ({"sparsity": "0.9"}, "sparsity.schedule.final is '0.9'"),
        ({"sparsity": 0.9, "overrides": {"layer.0": 1.5}}, "share of weights to remove"),
    ],
)
def test_what_cannot_be_is_refused_before_a_weight_is_touched(arguments: dict, message: str) -> None:
    model = bert()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        hf_sparse.prune(model, **arguments)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_plain_loop_keeps_the_zeros_in_five_lines() -> None:
    model = bert()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=0.1)
    batch = {name: torch.stack([row[name] for row in sentences(8)]) for name in sentences(1)[0]}
    model(**batch).loss.backward()
    optimizer.step()

    masks = hf_sparse.prune(model, 0.9)
    masks.apply_to_optimizer(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        masks.apply_to_gradients()
        optimizer.step()
        masks.apply_to_weights()
    expected = 2 * (4 * int(0.9 * SIZES["hidden_size"] ** 2) + 2 * int(0.9 * SIZES["hidden_size"] * 64))
    assert measure_sparsity(model).zeros == expected
