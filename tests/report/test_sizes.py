"""How the sizes of a saved model are shown."""

import json
from dataclasses import replace
from io import StringIO

from rich.console import Console

from hf_sparse.checkpoint.sizes import Sizes
from hf_sparse.report.sizes import size_table, sizes_as_dict

SIZES = Sizes(
    parameters=109_000_000,
    encoder_weights=85_000_000,
    encoder_nonzero=8_500_000,
    dense_bytes=436_000_000,
    encoder_dense_bytes=340_000_000,
    file_bytes=109_000_000,
    encoder_bytes=12_240_000,
    scale_bytes=360_000,
    encoder_bound_bytes=12_000_000,
    counted_bytes=8_500_000,
)
EMPTY = replace(SIZES, encoder_nonzero=0, encoder_bound_bytes=0, counted_bytes=0)


def rows(sizes: Sizes) -> list[list[str]]:
    console = Console(file=StringIO(), width=80)
    console.print(size_table(sizes))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    return [line.replace(" MB", "MB").split() for line in lines]


def test_encoder_and_whole_model_have_a_row_each() -> None:
    found = rows(SIZES)
    assert ["encoder", "340.00MB", "12.60MB", "27.0x", "8.50MB,", "40.0x", "1.020"] in found
    assert ["whole", "model", "436.00MB", "109.00MB", "4.0x"] in found


def test_an_encoder_of_zeros_has_no_ratio() -> None:
    assert ["encoder", "340.00MB", "12.60MB", "27.0x", "0.0", "kB,", "-", "-"] in rows(EMPTY)


def test_the_numbers_and_their_ratios_survive_json() -> None:
    found = json.loads(json.dumps(sizes_as_dict(SIZES), allow_nan=False))
    assert found["file_bytes"] == 109_000_000 and found["scale_bytes"] == 360_000
    assert (found["ratio"], found["counted_ratio"], found["over_bound"]) == (4.0, 40.0, 1.02)
    assert found["encoder_ratio"] == 340 / 12.6
    empty = json.loads(json.dumps(sizes_as_dict(EMPTY), allow_nan=False))
    assert empty["counted_ratio"] is None and empty["over_bound"] is None and empty["ratio"] == 4.0
