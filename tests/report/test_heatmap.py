"""The zeros of a model as pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import T5Config, T5Model

from hf_sparse import find_targets, prune
from hf_sparse.report.heatmap import layer_figure, sparsity_figure, weight_figure
from hf_sparse.report.pictures import write_png
from hf_sparse.sparsity.inspection import find_weight, inspect_weights
from tests.support.tiny import bert


def pruned() -> nn.Module:
    """A model of which every layer is pruned in another way."""
    model = bert()
    prune(model, 0.5, overrides={"layer.1": 0.25, "query": 0.75})
    return model


def t5() -> T5Model:
    return T5Model(T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, vocab_size=50))


def test_the_heat_map_shows_every_cell_and_the_totals() -> None:
    figure = sparsity_figure(inspect_weights(find_targets(pruned())), "title")
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert len(texts) == 3 * 7 and texts[:2] == ["75.0", "50.0"] and texts[-1] == "39.1"
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["query", "key"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "all"]
    colors = [patch.get_facecolor() for patch in axes.patches]
    assert colors[0] != colors[1] == colors[2]


def test_dark_cells_have_light_numbers() -> None:
    axes = sparsity_figure(inspect_weights(find_targets(pruned())), "title").axes[0]
    assert axes.texts[0].get_color() == "#ffffff"
    assert axes.texts[7].get_color() == "#000000"


def test_colors_span_the_shares_that_occur() -> None:
    def span(sparsity: float) -> tuple[float, float]:
        model = bert()
        prune(model, sparsity)
        return sparsity_figure(inspect_weights(find_targets(model)), "title").axes[-1].get_xlim()

    assert span(0.85) == pytest.approx((0.8, 0.9))
    assert span(0.5) == pytest.approx((0.4, 0.5))
    assert span(0.0) == pytest.approx((0.0, 0.1))


def test_the_map_of_a_weight_shows_where_its_zeros_are() -> None:
    model = bert()
    target = find_weight(model, "layer.0.intermediate.dense").found[0]
    with torch.no_grad():
        target.weight[3] = 0.0
    axes = weight_figure(target).axes[0]
    drawn = axes.images[0].get_array()
    assert drawn.shape == (64, 32) and drawn[3].min() == 1 and drawn.sum() == 32
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("64 outputs", "32 inputs")


@pytest.mark.parametrize("make", [bert, t5])
def test_it_is_written_as_png(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    write_png(sparsity_figure(inspect_weights(find_targets(make())), "title"), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_the_map_of_a_layer_shows_each_of_its_matrices() -> None:
    model = pruned()
    figure = layer_figure(find_targets(model), 1, "title")
    drawn = [axes for axes in figure.axes if axes.images]
    titles = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    assert [axes.get_title() for axes in drawn] == [*titles, "intermediate.dense", "output.dense"]
    assert drawn[0].get_xlabel() == "25.0% unstructured" and drawn[4].get_ylabel() == "64 x 32"
    query = model.bert.encoder.layer[1].attention.self.query.weight
    assert torch.equal(torch.tensor(drawn[0].images[0].get_array().data), (query == 0).double())


def test_layers_of_several_stacks_are_told_apart() -> None:
    titles = {axes.get_title() for axes in layer_figure(find_targets(t5()), 0, "title").axes if axes.images}
    assert {"encoder.block.layer.0.SelfAttention.q", "decoder.block.layer.0.SelfAttention.q"} <= titles


def test_a_layer_that_is_not_there_or_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = find_targets(bert())
    with pytest.raises(ValueError, match="layer 2 is missing: layers go from 0 to 1"):
        layer_figure(targets, 2, "title")
    monkeypatch.setattr("hf_sparse.report.heatmap._MOST_PANELS", 5)
    with pytest.raises(ValueError, match="layer 1 has 6 matrices, more than the 5 of a figure"):
        layer_figure(targets, 1, "title")
