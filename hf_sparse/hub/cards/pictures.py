"""The pictures beside a card: zeros by layer, the course of the run, latencies."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hf_sparse.report.grid import arrange
from hf_sparse.report.heatmap import sparsity_figure
from hf_sparse.report.history import history_figure
from hf_sparse.report.latency import latency_figure
from hf_sparse.report.pictures import write_png
from hf_sparse.runs.run import Run
from hf_sparse.sparsity.inspection import WeightInspection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

PICTURES = ("sparsity.png", "training.png", "latency.png")


def draw_pictures(
    folder: Path, run: Run, weights: tuple[WeightInspection, ...], name: str
) -> tuple[str, ...]:
    """Draw what there is data for into a folder; return the names of the files.

    Earlier ones of these names are replaced or, if there is nothing to draw any more, deleted. Without
    matplotlib none is drawn, and a warning says so.
    """
    for picture in PICTURES:
        (folder / picture).unlink(missing_ok=True)
    if find_spec("matplotlib") is None:
        logger.warning("The card has no pictures: matplotlib is not installed; pip install hf_sparse[demo]")
        return ()
    drawn = dict(_figures(run, weights, name))
    for picture, draw in drawn.items():
        write_png(draw(), folder / picture)
    return tuple(drawn)


def _figures(
    run: Run, weights: tuple[WeightInspection, ...], name: str
) -> Iterator[tuple[str, Callable[[], "Figure"]]]:
    if any(weight.zeros for weight in weights) and arrange(weights)[0]:
        yield PICTURES[0], lambda: sparsity_figure(weights, f"{name}: zeros (%)")
    if any("loss" in line for line in run.log):
        yield PICTURES[1], lambda: history_figure(run.log, f"{name}: its last run")
    if run.latencies:
        yield PICTURES[2], lambda: latency_figure(replace(run.latency_reports()[0], model=name))
