"""How sparse a model is."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from hf_sparse.sparsity.measure import SparsityReport, measure_sparsity
from hf_sparse.targets import find_targets


@pytest.fixture
def model() -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(4, 2), nn.Linear(2, 4)])
    model.head = nn.Linear(2, 2)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    model.layers[0].weight.data[0, :3] = 0
    model.layers[1].weight.data[:] = torch.tensor([0.0, -0.0])
    model.layers[0].bias.data.zero_()
    model.head.weight.data.zero_()
    return model


def test_zeros_are_counted_in_the_targets_alone(model: nn.Module) -> None:
    report = measure_sparsity(model)
    assert report == SparsityReport(
        {"layers.0.weight": 3, "layers.1.weight": 8}, {"layers.0.weight": 8, "layers.1.weight": 8}
    )
    assert (report.zeros, report.total, report.overall) == (11, 16, 0.6875)
    assert report.per_target == {"layers.0.weight": 0.375, "layers.1.weight": 1.0}


def test_other_targets_can_be_measured(model: nn.Module) -> None:
    report = measure_sparsity(model, find_targets(model, include=["head", r"layers\.0"]))
    assert report.per_target == {"layers.0.weight": 0.375, "head.weight": 1.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type_of_weight_is_measured(model: nn.Module, dtype: torch.dtype) -> None:
    assert measure_sparsity(model.to(dtype)).zeros == 11


def test_a_model_with_nothing_to_prune_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has nothing to prune"):
        measure_sparsity(nn.Linear(2, 2))


def test_a_fresh_transformer_is_dense() -> None:
    config = BertConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    report = measure_sparsity(BertModel(config))
    assert (report.zeros, report.total) == (0, 2 * (4 * 32 * 32 + 2 * 32 * 64))
