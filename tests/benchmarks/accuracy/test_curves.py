"""The pictures of finished models show the scores of the table, with their errors."""

from pathlib import Path

import curves
import pytest
from stages import read_finished

from tests.benchmarks.accuracy.fakes import published

ERROR = {"accuracy_error": 0.01}


@pytest.fixture
def dots(tmp_path: Path) -> list[curves.Dot]:
    """Publish dense, GMP, transfers from 3 M and 1 M tokens, two seeds, short ones, and one in 8 bits."""
    published(tmp_path, "dense", "dense", "ENCODER", "sst2", accuracy=0.9, sparsity=0.0, **ERROR)
    published(tmp_path, "gmp", "GMP 90 %", "ENCODER", "sst2", accuracy=0.85, **ERROR)
    for tokens in (1, 3):
        published(tmp_path, f"up{tokens}", "upstream 90 %", "ENCODER", "text", tokens=tokens * 1_000_000)
        published(tmp_path, f"s{tokens}", "short transfer 90 %", f"up{tokens}", "sst2", accuracy=0.8, **ERROR)
        published(tmp_path, f"t{tokens}", "transfer 90 %", f"up{tokens}", "sst2", accuracy=0.87, **ERROR)
    published(tmp_path, "again", "transfer 90 %", "up3", "sst2", seed=1, accuracy=0.88, **ERROR)
    sizes = {"encoder_bytes": 2_000_000, "encoder_dense_bytes": 40_000_000}
    published(tmp_path, "t8", "transfer 90 % int8", "t3", "sst2", bits=8, accuracy=0.86, **ERROR, **sizes)
    return curves.read_dots(read_finished(tmp_path))


def drawn(figure: object) -> dict[str, tuple[list[float], list[float]]]:
    """Return the points of the only panel by their name in the legend."""
    (axes,) = figure.axes
    handles, labels = axes.get_legend_handles_labels()
    lines = {
        label: getattr(handle, "lines", [handle])[0] for handle, label in zip(handles, labels, strict=True)
    }
    return {label: (list(line.get_xdata()), list(line.get_ydata())) for label, line in lines.items()}


def test_against_tokens_stand_short_and_whole_transfers(dots: list[curves.Dot]) -> None:
    figure = curves.tokens_figure(dots)
    lines = drawn(figure)
    # Those at 90 % are moved aside a little.
    assert lines["short transfer, 90 % zeros"] == (pytest.approx([1.025e6, 3.075e6]), [80.0, 80.0])
    assert lines["whole transfer, 90 % zeros"][1] == pytest.approx([87.0, 87.5])
    assert lines["while fine-tuning (GMP), 90 % zeros"][1] == [85.0, 85.0]
    assert lines["dense ± standard error"][1] == [90.0, 90.0]
    (axes,) = figure.axes
    bars = axes.containers[0][2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in bars] == [[79.0, 81.0], [79.0, 81.0]]


def test_against_zeros_stand_the_models_with_the_most_tokens(dots: list[curves.Dot]) -> None:
    lines = drawn(curves.sparsity_figure(dots))
    assert lines["pruned once, transferred"][1] == pytest.approx([87.5])
    assert lines["pruned while fine-tuning (GMP)"][1] == [85.0]
    assert len(lines) == 3


def test_against_bytes_stand_the_models_that_were_packed(dots: list[curves.Dot]) -> None:
    lines = drawn(curves.bytes_figure(dots))
    assert lines.pop("dense ± standard error")
    assert lines == {"pruned once, transferred, 8 bits": ([2.0], [86.0])}


def test_nothing_is_drawn_of_nothing() -> None:
    assert {draw([]) for draw in (curves.tokens_figure, curves.sparsity_figure, curves.bytes_figure)} == {
        None
    }
