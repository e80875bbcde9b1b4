"""The size of a saved model on disk, as a table and as JSON."""

import math
from dataclasses import asdict
from typing import Any

from rich.table import Table

from hf_sparse.checkpoint.sizes import Sizes
from hf_sparse.report.tables import narrow_table
from hf_sparse.units import size

_DERIVED = ("ratio", "encoder_ratio", "counted_ratio", "over_bound")


def size_table(sizes: Sizes) -> Table:
    """Return a table of encoder and whole model: size in float32, in the file, and as papers count it.

    The last column is the size of the encoder's weights in the file as a multiple of their entropy.
    """
    table = narrow_table("", "as float32", "this file", "ratio", "as papers count", "x entropy")
    table.add_row(
        "encoder",
        size(sizes.encoder_dense_bytes),
        size(sizes.encoder_bytes + sizes.scale_bytes),
        _times(sizes.encoder_ratio),
        f"{size(sizes.counted_bytes)}, {_times(sizes.counted_ratio)}",
        _decimals(sizes.over_bound),
    )
    table.add_row("whole model", size(sizes.dense_bytes), size(sizes.file_bytes), _times(sizes.ratio), "", "")
    return table


def sizes_as_dict(sizes: Sizes) -> dict[str, Any]:
    """Return sizes and their ratios as JSON takes them; a division by zero gives None."""
    ratios = {name: getattr(sizes, name) for name in _DERIVED}
    finite = {name: value if math.isfinite(value) else None for name, value in ratios.items()}
    return asdict(sizes) | finite


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if math.isfinite(ratio) else "-"


def _decimals(multiple: float) -> str:
    return f"{multiple:.3f}" if math.isfinite(multiple) else "-"
