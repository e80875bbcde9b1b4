"""Which pattern the zeros of weights follow."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model, MixtralConfig, MixtralModel, T5Config, T5Model

from hf_sparse import find_targets, prune
from hf_sparse.sparsity.inspection import (
    WeightInspection,
    find_weight,
    inspect_model,
    inspect_weights,
    place_of,
    zero_density,
)
from hf_sparse.targets import Target, Targets
from tests.support.tiny import bert, masked_lm


def pattern_of(weight: Tensor, **kind: Any) -> str | None:
    module = nn.Linear(1, 1)
    module.weight = nn.Parameter(weight)
    return inspect_weights(Targets((Target("weight", module, **kind),), ()))[0].pattern


def random(rows: int = 128, columns: int = 128) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def without_blocks(rows: int, columns: int, share: float = 0.5) -> Tensor:
    """Return a matrix without so many of its blocks, chosen at random."""
    weight = random()
    keep = torch.rand(128 // rows, 128 // columns, generator=torch.Generator().manual_seed(1)) >= share
    return weight * keep.repeat_interleave(rows, 0).repeat_interleave(columns, 1)


@pytest.mark.parametrize(
    "pattern",
    ["row", "column", "32x32", "16x16", "8x8", "16x4", "4x4", "16x1", "1x16", "4x1", "1x4", "unstructured"],
)
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_the_pattern_that_was_pruned_is_found(pattern: str, sparsity: float) -> None:
    model = bert(hidden_size=128, num_hidden_layers=1)
    prune(model, sparsity, pattern)
    found = inspect_weights(find_targets(model))
    assert {weight.pattern for weight in found} == {pattern}
    assert all(abs(weight.sparsity - sparsity) < 0.1 for weight in found)


@pytest.mark.parametrize("pattern", ["1:2", "2:4", "4:8", "1:4", "2:8", "1:8"])
def test_n_of_m_is_found(pattern: str) -> None:
    model = bert(num_hidden_layers=1)
    kept, group = map(int, pattern.split(":"))
    prune(model, 1 - kept / group, pattern)
    assert {weight.pattern for weight in inspect_weights(find_targets(model))} == {pattern}


def test_whole_columns_come_before_the_n_of_m_that_they_make() -> None:
    weight = random()
    weight[:, ::2] = 0.0
    assert pattern_of(weight) == "column"


def test_one_group_with_a_weight_too_many_is_no_n_of_m() -> None:
    weight = random().reshape(128, -1, 4)
    weight.scatter_(2, weight.abs().topk(2, largest=False).indices, 0.0)
    assert pattern_of(weight.reshape(128, 128)) == "2:4"
    weight[5, 5] = 1.0
    assert pattern_of(weight.reshape(128, 128)) == "unstructured"


def test_far_more_zeros_than_n_of_m_makes_are_not_called_so() -> None:
    weight = random().reshape(128, -1, 4)
    weight.scatter_(2, weight.abs().topk(2, largest=False).indices, 0.0)
    beyond = torch.rand(128, 128, generator=torch.Generator().manual_seed(1)) < 0.1
    assert pattern_of(weight.reshape(128, 128).masked_fill(beyond, 0.0)) == "unstructured"


def test_the_largest_block_counts() -> None:
    weight = random()
    weight[:32, 64:] = 0.0
    assert pattern_of(weight) == "32x32"


def test_a_few_zeros_beside_the_blocks_do_not_matter() -> None:
    weight = without_blocks(4, 4)
    kept = weight.nonzero()
    weight[tuple(kept[:40].T)] = 0.0
    assert pattern_of(weight) == "4x4"
    weight[tuple(kept[:400].T)] = 0.0
    assert pattern_of(weight) != "4x4"


def test_neighbors_that_are_zero_by_chance_are_no_blocks() -> None:
    weight = random(512, 512)
    weight[torch.rand(512, 512, generator=torch.Generator().manual_seed(1)) < 0.999] = 0.0
    assert pattern_of(weight) == "unstructured"


def test_a_dense_weight_has_no_pattern() -> None:
    assert pattern_of(random()) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_is_inspected(dtype: torch.dtype) -> None:
    assert pattern_of(without_blocks(4, 1).to(dtype)) == "4x1"


def test_rows_are_outputs_in_transposed_weights_too() -> None:
    weight = random()
    weight[3] = 0.0
    assert pattern_of(weight) == "row"
    assert pattern_of(weight.t().contiguous(), transposed=True) == "row"


def test_blocks_that_do_not_fit_are_passed_over() -> None:
    weight = random(6, 10)
    weight[0, 0] = 0.0
    assert pattern_of(weight) == "unstructured"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("bert.encoder.layer.3.output.dense.weight", ("bert.encoder.layer", 3, "output.dense")),
        ("h.11.attn.c_attn.weight", ("h", 11, "attn.c_attn")),
        (
            "decoder.block.2.layer.1.EncDecAttention.q.weight",
            ("decoder.block", 2, "layer.1.EncDecAttention.q"),
        ),
        ("layers.0.mlp.experts.gate_up_proj[7]", ("layers", 0, "mlp.experts.gate_up_proj")),
        ("0.weight", ("", 0, "weight")),
        ("pooler.dense.weight", None),
    ],
)
def test_places_are_read_from_names(name: str, place: tuple[str, int, str] | None) -> None:
    found = place_of(name)
    assert (found and (found.stack, found.layer, found.kind)) == place


def test_layers_and_the_whole_model_are_counted_with_all_they_hold() -> None:
    model = masked_lm()
    targets = find_targets(model)
    prune(model, 0.5)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            nn.init.ones_(module.bias)
    found = inspect_model(model, targets)
    assert found.targets.overall == 0.5
    assert found.layers.zeros == found.targets.zeros
    assert found.layers.total == sum(value.numel() for value in model.bert.encoder.parameters())
    # The padding's embedding, and the output matrix that shares its parameter with the embeddings.
    assert found.whole.zeros == found.targets.zeros + 32
    assert found.whole.total == sum(value.numel() for value in model.parameters())


def test_layers_are_those_that_have_targets() -> None:
    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=20)
    model = T5Model(config)
    found = inspect_model(model, find_targets(model, exclude=["decoder"]))
    assert found.layers.total == sum(value.numel() for value in model.encoder.block.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda: GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50)),
        lambda: MixtralModel(
            MixtralConfig(
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                num_local_experts=2,
                vocab_size=50,
            )
        ),
    ],
)
def test_other_ways_of_storing_weights_are_inspected(make: Callable[[], nn.Module]) -> None:
    model = make()
    prune(model, 0.5, "4x1")
    assert {weight.pattern for weight in inspect_weights(find_targets(model))} == {"4x1"}


def test_density_is_the_share_of_zeros_in_each_cell() -> None:
    weight = torch.ones(5, 8)
    weight[0, :2] = weight[4, 7] = 0.0
    assert zero_density(weight, 4).tolist() == [[0.5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0.5]]
    assert np.array_equal(zero_density(weight), (weight == 0).double().numpy())


def test_one_weight_is_found_by_a_part_of_its_name() -> None:
    model = bert()
    assert find_weight(model, "layer.1.attention.self.query").names == [
        "bert.encoder.layer.1.attention.self.query.weight"
    ]
    assert find_weight(model, "pooler.dense.weight").names == ["bert.pooler.dense.weight"]
    with pytest.raises(
        ValueError, match="'query' is in the names of 2 weights, such as bert.encoder.layer.0"
    ):
        find_weight(model, "query")
    with pytest.raises(ValueError, match="matches no Linear"):
        find_weight(model, "nowhere")


def test_a_name_in_full_wins_over_longer_ones() -> None:
    model = nn.ModuleDict({"one": nn.Linear(2, 2), "one_more": nn.Linear(2, 2)})
    assert find_weight(model, "one").names == ["one.weight"]


def test_an_inspected_weight_knows_its_share() -> None:
    assert WeightInspection("weight", (2, 4), 2, "1x1").sparsity == 0.25
