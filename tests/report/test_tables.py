"""How measured models are shown."""

from io import StringIO

import pytest
from rich.console import Console

from hf_sparse.report.tables import ModelRow, duration, model_table


def test_a_row_shows_percentages_and_units() -> None:
    console = Console(file=StringIO(), width=80)
    console.print(model_table([("The task", [ModelRow("dense", 0.8125, 0.0, 5_300_000, 75.2)])]))
    lines = console.file.getvalue().splitlines()
    assert any(line.split() == ["dense", "81.2%", "0.0%", "5.30", "MB", "1:15"] for line in lines)
    assert any(line.strip() == "The task" for line in lines)


def test_shares_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"accuracy of dense must be in .0, 1., got 81.2"):
        ModelRow("dense", 81.2, 0.0, 1, 1.0)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3661, "61:01")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
