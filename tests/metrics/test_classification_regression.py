"""Correlations on numbers that can be checked by hand."""

import pytest

from hf_sparse.metrics.classification import Pearson, Spearman


def test_pearson_of_a_line_is_one() -> None:
    scores = Pearson().compute(predictions=[1.0, 2.0, 4.0], references=[-2.0, -4.0, -8.0])
    assert scores == {"pearson": pytest.approx(-1)}


def test_pearson_sees_the_curve_where_spearman_sees_the_order() -> None:
    predictions, references = [1.0, 2.0, 3.0], [1.0, 2.0, 9.0]
    # centered: (-1, 0, 1) and (-3, -2, 5)
    expected = 8 / (2 * 38) ** 0.5
    assert Pearson().compute(predictions=predictions, references=references) == {
        "pearson": pytest.approx(expected)
    }
    assert Spearman().compute(predictions=predictions, references=references) == {
        "spearmanr": pytest.approx(1)
    }


@pytest.mark.parametrize(("metric", "name"), [(Pearson, "pearson"), (Spearman, "spearmanr")])
def test_a_correlation_with_a_constant_is_zero(metric: type, name: str) -> None:
    assert metric().compute(predictions=[0.5, 0.5, 0.5], references=[1.0, 2.0, 3.0]) == {name: 0.0}
    assert metric().compute(predictions=[1.0, 2.0], references=[3.0, 3.0]) == {name: 0.0}
