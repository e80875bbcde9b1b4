"""Figures of the zeros of a model: by layer and kind, and inside one weight or one layer."""

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from hf_sparse.report.colors import Scale, color_map, shades
from hf_sparse.report.grid import Grid, arrange
from hf_sparse.report.pictures import GRAY, LITERAL, hide_frame, new_figure
from hf_sparse.sparsity.inspection import WeightInspection, inspect_weights, place_of, zero_density
from hf_sparse.targets import Target, Targets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches.
_HEIGHT, _LETTER = 0.34, 0.085

# The figure of one layer: panels in a row, panels at most, cells along a side of a panel.
_ACROSS, _MOST_PANELS, _CELLS = 4, 48, 256


def sparsity_figure(weights: Sequence[WeightInspection], title: str) -> "Figure":
    """Draw the sparsity of every kind of weight in every layer; raise `ValueError` if no name has a layer."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    grids, _ = arrange(weights)
    if not grids:
        raise ValueError("the names of these weights lack layer numbers; draw one weight with --weight")
    columns = max(len(grid.kinds) for grid in grids) + 1
    longest = max(len(part) for grid in grids for label in grid.labels for part in label.split("."))
    heights = [len(grid.layers) + 1 for grid in grids]
    figure = new_figure(
        1 + max(0.9, _LETTER * longest + 0.1) * columns,
        1.5 + _HEIGHT * sum(heights) + 0.6 * len(grids),
        title,
    )
    panels = figure.subplots(len(grids), 1, height_ratios=heights, squeeze=False)[:, 0]
    scale = Scale.over([weight.sparsity for weight in weights])
    for axes, grid in zip(panels, grids, strict=True):
        _draw_grid(axes, grid, scale)
        axes.set_xlim(-0.5, columns - 0.3)
    bar = figure.colorbar(
        ScalarMappable(Normalize(scale.low, scale.high), color_map()),
        ax=panels,
        location="bottom",
        ticks=[scale.low, scale.high],
        format="{x:.0%}",
        aspect=40,
        shrink=0.4,
        pad=0.02,
    )
    bar.ax.tick_params(length=0, labelsize=8, colors=GRAY)
    bar.outline.set_visible(False)
    return figure


def weight_figure(target: Target) -> "Figure":
    """Draw the places of zeros in one matrix; a cell stands for one entry, or for a few in a large matrix."""
    weight = target.weight
    rows, columns = weight.shape
    ratio = min(max(rows / columns, 0.3), 2.0)
    figure = new_figure(7 / max(ratio, 1.0) + 1.8, 7 * min(ratio, 1.0) + 1.0, target.name, 11)
    axes = figure.subplots()
    image = axes.imshow(
        zero_density(weight),
        cmap=color_map(),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        extent=(0, columns, rows, 0),
    )
    axes.set_xlabel(f"{columns:,} inputs")
    axes.set_ylabel(f"{rows:,} outputs")
    hide_frame(axes, "top", "right", "bottom", "left")
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=40, format="{x:.0%}", label="zeros")
    bar.outline.set_visible(False)
    return figure


def layer_figure(targets: Targets, layer: int, title: str) -> "Figure":
    """Draw the places of zeros in every matrix of one layer, each with its name, pattern and sparsity.

    Raises `ValueError` if the layer is missing, or has more matrices than a figure can show.
    """
    places = {target.name: place for target in targets if (place := place_of(target.name)) is not None}
    chosen = [target for target in targets if target.name in places and places[target.name].layer == layer]
    if not chosen:
        numbers = sorted({place.layer for place in places.values()})
        known = f"layers go from {numbers[0]} to {numbers[-1]}" if numbers else "their names lack numbers"
        raise ValueError(f"layer {layer} is missing: {known}")
    if len(chosen) > _MOST_PANELS:
        raise ValueError(
            f"layer {layer} has {len(chosen)} matrices, more than the {_MOST_PANELS} of a figure; choose "
            "some with --include, or draw one with --weight"
        )
    found = inspect_weights(Targets(tuple(chosen), ()))
    stacks = len({places[weight.name].stack for weight in found}) > 1
    across = min(len(chosen), _ACROSS)
    down = ceil(len(chosen) / across)
    figure = new_figure(2.5 * across + 0.6, 2.7 * down + 0.6, title)
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for axes, target, weight in zip(panels, chosen, found, strict=False):
        place = places[target.name]
        image = axes.imshow(
            zero_density(target.weight, _CELLS), cmap=color_map(), vmin=0, vmax=1, interpolation="nearest"
        )
        axes.set_aspect("auto")
        axes.set_title(f"{place.stack}.{place.kind}" if stacks else place.kind, fontsize=9, **LITERAL)
        axes.set_xlabel(f"{weight.sparsity:.1%} {weight.pattern or ''}", fontsize=8, color=GRAY)
        axes.set_ylabel(f"{weight.shape[0]:,} x {weight.shape[1]:,}", fontsize=8, color=GRAY)
        axes.set_xticks([])
        axes.set_yticks([])
        hide_frame(axes, "top", "right", "bottom", "left")
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    bar = figure.colorbar(image, ax=panels, pad=0.02, aspect=40, format="{x:.0%}", label="zeros")
    bar.outline.set_visible(False)
    return figure


def _draw_grid(axes: "Axes", grid: Grid, scale: Scale) -> None:
    layers, kinds = [*grid.layers, None], [*grid.kinds, None]
    # Totals are set apart by a small gap.
    xs, ys = ([*range(len(keys) - 1), len(keys) - 0.8] for keys in (kinds, layers))
    for y, layer in zip(ys, layers, strict=True):
        for x, kind in zip(xs, kinds, strict=True):
            if (share := grid.sparsity(layer, kind)) is not None:
                _draw_cell(axes, x, y, share, scale)
    axes.set_ylim(ys[-1] + 0.5, -0.5)
    axes.set_xticks(xs, [*(label.replace(".", "\n") for label in grid.labels), "all"], **LITERAL)
    axes.set_yticks(ys, [*map(str, grid.layers), "all"])
    axes.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=False, colors=GRAY)
    axes.set_ylabel(grid.stack, color=GRAY, fontsize=9, **LITERAL)
    hide_frame(axes, "top", "right", "bottom", "left")


def _draw_cell(axes: "Axes", x: float, y: float, share: float, scale: Scale) -> None:
    from matplotlib.patches import Rectangle

    shade = shades(dark=False)[scale.step(share)]
    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=shade.cell, linewidth=0))
    axes.text(
        x,
        y,
        f"{100 * share:.1f}",
        color=shade.text,
        fontsize=9,
        horizontalalignment="center",
        verticalalignment="center",
    )
