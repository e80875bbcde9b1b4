"""Zeros by layer as cells."""

from hf_sparse.report.grid import heat_maps
from hf_sparse.sparsity.inspection import WeightInspection


def weight(name: str, zeros: int) -> WeightInspection:
    return WeightInspection(name, (10, 10), zeros, None)


def test_layers_are_rows_and_kinds_are_columns_with_totals_at_the_ends() -> None:
    weights = [weight("layer.0.query.weight", 80), weight("layer.0.out.dense.weight", 90)]
    (found,), rest = heat_maps([*weights, weight("layer.1.query.weight", 100)])
    assert found.headings == (("query",), ("dense",), ("all",))
    texts = {layer: [cell and cell.text for cell in cells] for layer, cells in found.rows}
    assert texts == {
        "0": ["80.0", "90.0", "85.0"],
        "1": ["100.0", None, "100.0"],
        "all": ["90.0", "90.0", "90.0"],
    }
    assert (found.scale.low, found.scale.high) == (0.8, 1.0) and rest == []


def test_colors_are_spread_over_the_tenths_that_occur() -> None:
    weights = [weight("layer.0.a.weight", 80), weight("layer.1.a.weight", 85), weight("layer.2.a.weight", 90)]
    (found,), _ = heat_maps(weights)
    assert [cells[0].step for _, cells in found.rows] == [0, 10, 20, 10]


def test_a_dense_model_has_no_map_and_a_weight_without_a_layer_is_named() -> None:
    assert heat_maps([weight("layer.0.a.weight", 0)]) == ([], [])
    maps, rest = heat_maps([weight("projection.weight", 50)])
    assert maps == [] and rest == [("projection.weight", "50.0 %")]
