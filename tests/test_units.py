"""How numbers are written, and that reports and cards agree about thresholds."""

from types import SimpleNamespace

import pytest

from hf_sparse.hub.card.card_data import Facts
from hf_sparse.runs.measured_run import MeasuredRun
from hf_sparse.units import DENSE_BELOW, counted, megabytes, milliseconds, percent, short, size


def test_size_is_in_decimal_units() -> None:
    assert [size(1_234_567), size(100_000), size(99_949)] == ["1.23 MB", "0.10 MB", "99.9 kB"]
    assert [megabytes(123_456), megabytes(1_234_567), megabytes(98_765_432)] == [
        "0.123",
        "1.23",
        "98.8",
    ]


def test_fewer_digits_stand_behind_larger_numbers() -> None:
    assert [milliseconds(0.1234), milliseconds(12.34), milliseconds(1234.5)] == ["0.123", "12.3", "1,234"]
    assert [short(0.126), short(123.46), short(1234.6)] == ["0.13", "123.5", "1,235"]
    assert [percent(0.12345), percent(1, " "), counted(1, "thread"), counted(0, "core")] == [
        *("12.3%", "100.0 %"),
        *("1 thread", "0 cores"),
    ]


@pytest.mark.parametrize(("share", "dense"), [(0.0, True), (0.007, True), (DENSE_BELOW, False), (0.5, False)])
def test_a_comparison_and_a_card_call_the_same_models_dense(share: float, dense: bool) -> None:
    assert MeasuredRun.dense.fget(SimpleNamespace(sparsity=share)) is dense
    assert Facts.sparse.fget(SimpleNamespace(zeros=SimpleNamespace(share=share))) is not dense
