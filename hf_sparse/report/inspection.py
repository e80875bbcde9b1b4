"""An inspected model as tables and as JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn
from transformers import PreTrainedModel

from hf_sparse.checkpoint.sizes import Sizes
from hf_sparse.checkpoint.sparsity_record import (
    SparsityRecord,
    describe_lost,
    lost_zeros,
    read_sparsity_record,
)
from hf_sparse.quantization.fake_layers import LayerQuantization
from hf_sparse.report.grid import Grid, arrange
from hf_sparse.report.sizes import size_table, sizes_as_dict
from hf_sparse.report.tables import narrow_table
from hf_sparse.sparsity.inspection import Inspection, WeightInspection, inspect_model
from hf_sparse.sparsity.measure import SparsityReport
from hf_sparse.sparsity.structured.shrink import count_dead
from hf_sparse.targets import Targets
from hf_sparse.units import percent, size

# Letters between two columns of a table.
_GAP = 2
_NO_PATTERN = "none, without zeros"


@dataclass(frozen=True)
class InspectedModel:
    """A saved model with what was found in it.

    `file_bytes` is the size of its weight files. `record` is the sparsity record of its configuration,
    or None. `lost` is what `lost_zeros` returns: for each weight with fewer zeros than recorded, the number
    of removed weights and of zeros. `quantized` counts layers by the schemes of weights and inputs, None for
    embeddings. `dead` maps neurons and heads to the number without influence on the output, and to the total.
    `sizes` is None if not measured.
    """

    name: str
    architecture: str
    inspection: Inspection
    file_bytes: int
    record: SparsityRecord | None
    lost: Mapping[str, tuple[int, int | None]]
    quantized: Mapping[tuple[str, str | None], int]
    dead: Mapping[str, tuple[int, int]]
    sizes: Sizes | None


def inspect_saved(
    name: str, model: PreTrainedModel, targets: Targets, file_bytes: int, sizes: Sizes | None = None
) -> InspectedModel:
    """Inspect a loaded model, and compare it with the sparsity that its configuration records."""
    schemes = Counter(
        (str(part.weights), None if isinstance(module, nn.Embedding) else part.activations)
        for module in model.modules()
        if isinstance(part := getattr(module, "quantization", None), LayerQuantization)
    )
    return InspectedModel(
        name,
        type(model).__name__,
        inspect_model(model, targets),
        file_bytes,
        read_sparsity_record(model),
        lost_zeros(model),
        schemes,
        # The report on a single weight is about nothing else.
        count_dead(model) if len(targets) > 1 else {},
        sizes,
    )


def print_inspection(found: InspectedModel, console: Console) -> None:
    """Print the inspection within the width of a console."""
    console.print(f"{found.name}: {found.architecture}", highlight=False, markup=False)
    grids, rest = arrange(found.inspection.weights)
    for grid in grids:
        for table in _grid_tables(grid, console.width):
            console.print("", table)
    if rest:
        console.print("", _list_of(rest))
    console.print("", _shares(found), "")
    if found.sizes is not None:
        console.print(size_table(found.sizes), "")
    console.print(_patterns(found.inspection.weights))
    for (weights, activations), count in found.quantized.items():
        what = f"embeddings {weights}" if activations is None else f"weights {weights}, inputs {activations}"
        console.print(f"Quantized: {what} in {count} layers.", highlight=False)
    if any(dead for dead, _ in found.dead.values()):
        parts = [f"{dead:,} of {total:,} {kind}" for kind, (dead, total) in found.dead.items()]
        console.print(f"Dead: {', '.join(parts)}.", highlight=False)
    _print_contract(found, console)


def inspection_as_dict(found: InspectedModel) -> dict[str, Any]:
    """Return the inspection as JSON takes it."""
    inspection = found.inspection
    reports = {"targets": inspection.targets, "layers": inspection.layers, "whole": inspection.whole}
    return {
        "model": found.name,
        "architecture": found.architecture,
        "sparsity": {
            name: {"zeros": report.zeros, "entries": report.total, "share": _share(report)}
            for name, report in reports.items()
        },
        "weights": [asdict(weight) | {"sparsity": weight.sparsity} for weight in inspection.weights],
        "file_bytes": found.file_bytes,
        "sizes": found.sizes and sizes_as_dict(found.sizes),
        "quantized": [
            {"weights": weights, "activations": activations, "layers": count}
            for (weights, activations), count in found.quantized.items()
        ],
        "dead": {kind: {"dead": dead, "all": total} for kind, (dead, total) in found.dead.items()},
        "contract": found.record and asdict(found.record),
        "lost_zeros": {
            name: {"removed": removed, "zeros": zeros} for name, (removed, zeros) in found.lost.items()
        },
    }


def print_weight(found: InspectedModel, console: Console) -> None:
    """Print the zeros and the pattern of the only weight that was inspected."""
    weight = found.inspection.weights[0]
    rows, columns = weight.shape
    console.print(f"{weight.name}: {rows:,} outputs x {columns:,} inputs", highlight=False, markup=False)
    console.print(
        f"{weight.zeros:,} of {weight.size:,} entries are zero ({_percent(weight.sparsity)}). Pattern: "
        f"{weight.pattern or _NO_PATTERN}.",
        highlight=False,
    )
    _print_lost(found, console)


def _grid_tables(grid: Grid, width: int) -> list[Table]:
    """Return one table of a grid, or several if its columns do not fit into one."""
    labels = dict(zip(grid.kinds, grid.labels, strict=True)) | {None: "all"}
    headings = {kind: label.split(".") for kind, label in labels.items()}
    parts: list[list[str | None]] = []
    room = 0
    for kind, heading in headings.items():
        needed = _GAP + max(len("100.0%"), *map(len, heading))
        if needed > room:
            parts.append([])
            room = width - len("layer") - _GAP
        parts[-1].append(kind)
        room -= needed
    tables = []
    for part in parts:
        table = narrow_table("layer", *(escape("\n".join(headings[kind])) for kind in part), numbered=True)
        for layer in grid.layers:
            table.add_row(str(layer), *(_percent(grid.sparsity(layer, kind)) for kind in part))
        table.add_section()
        table.add_row("all", *(_percent(grid.sparsity(kind=kind)) for kind in part))
        tables.append(table)
    return tables


def _list_of(weights: Sequence[WeightInspection]) -> Table:
    table = narrow_table("weight", "zeros")
    table.columns[0].overflow, table.columns[0].no_wrap = "fold", False
    for weight in weights:
        table.add_row(escape(weight.name), _percent(weight.sparsity))
    return table


def _shares(found: InspectedModel) -> Table:
    inspection = found.inspection
    table = narrow_table("", "zeros", "entries", "not zero")
    for name, report in (
        ("target weights", inspection.targets),
        ("layers, with biases and norms", inspection.layers),
        ("whole model", inspection.whole),
    ):
        kept = report.total - report.zeros
        table.add_row(name, _percent(_share(report)), f"{report.total:,}", f"{kept:,}")
    table.add_section()
    table.add_row("weight files", "", size(found.file_bytes), "")
    return table


def _patterns(weights: Sequence[WeightInspection]) -> str:
    counts = Counter(weight.pattern or _NO_PATTERN for weight in weights)
    return "Pattern: " + "; ".join(
        f"{name} in {count} of {len(weights)} weights" for name, count in counts.most_common()
    )


def _print_contract(found: InspectedModel, console: Console) -> None:
    if (record := found.record) is None:
        console.print("The configuration records no sparsity.")
        return
    console.print(
        f"Recorded: {record.pattern}, {_percent(record.target)} asked for, "
        f"{_percent(record.achieved)} achieved, masks {record.digest[:16]}.",
        highlight=False,
        markup=False,
    )
    if not found.lost:
        console.print("Every weight has at least the zeros recorded of it.", highlight=False)
    _print_lost(found, console)


def _print_lost(found: InspectedModel, console: Console) -> None:
    if found.lost:
        console.print(f"Warning: {describe_lost(found.lost)}.", style="red", highlight=False, markup=False)


def _share(report: SparsityReport) -> float | None:
    return report.overall if report.total else None


def _percent(share: float | None) -> str:
    return "-" if share is None else percent(share)
