"""Shapes in which weights are removed together."""

import numpy as np
import pytest
import torch

from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block
from hf_sparse.sparsity.patterns.parse import parse_pattern

SCORES = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]


@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [("unstructured", 1, 1), ("1x4", 1, 4), ("4x1", 4, 1), ("4x4", 4, 4), ("16x1", 16, 1), ("32x10", 32, 10)],
)
def test_a_pattern_is_rows_by_columns_of_the_out_in_matrix(text: str, rows: int, columns: int) -> None:
    assert parse_pattern(text) == Block(rows, columns)
    assert str(parse_pattern(text)) == text
    assert parse_pattern(text).size == rows * columns


def test_one_by_one_is_unstructured() -> None:
    assert parse_pattern("1x1") == UNSTRUCTURED
    assert str(Block(1, 1)) == "unstructured"


@pytest.mark.parametrize(
    "text", ["", "4", "x4", "0x4", "4x0", "-1x4", "1 x 4", "1x4x4", "04x1", "1X4", "2:", "Unstructured"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match="is not a pattern; write unstructured, or blocks as rows x"
    ) as caught:
        parse_pattern(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (1, 0), (-4, 1)])
def test_a_block_holds_at_least_one_weight(rows: int, columns: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 row and 1 column, got {rows}x{columns}"):
        Block(rows, columns)


@pytest.mark.parametrize(
    ("text", "shape"), [("1x4", (3, 8)), ("4x1", (8, 3)), ("4x4", (4, 4)), ("16x1", (32, 1))]
)
def test_a_block_that_tiles_is_accepted(text: str, shape: tuple[int, int]) -> None:
    assert parse_pattern(text).fit("layer.weight", shape) == parse_pattern(text)


@pytest.mark.parametrize(
    ("text", "shape"),
    [("1x4", (4, 6)), ("4x1", (6, 4)), ("4x4", (770, 768)), ("4x4", (768, 770)), ("16x1", (8, 8))],
)
def test_a_block_that_does_not_tile_is_refused(text: str, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not tile") as caught:
        parse_pattern(text).fit("layer.weight", shape)
    assert str(caught.value) == (
        f"pattern {text} does not tile layer.weight of shape {shape[0]} x {shape[1]}; "
        "exclude that module or choose a block that divides both sides"
    )


@pytest.mark.parametrize(
    ("block", "pooled"),
    [
        (Block(1, 1), SCORES),
        (Block(1, 2), [[3.0, 7.0], [11.0, 15.0]]),
        (Block(1, 4), [[10.0], [26.0]]),
        (Block(2, 1), [[6.0, 8.0, 10.0, 12.0]]),
        (Block(2, 2), [[14.0, 22.0]]),
        (Block(2, 4), [[36.0]]),
    ],
)
def test_pool_sums_over_each_block_of_an_array_or_a_tensor(block: Block, pooled: list[list[float]]) -> None:
    assert block.pool(torch.tensor(SCORES)).tolist() == pooled
    assert block.pool(np.array(SCORES)).tolist() == pooled


def test_pool_leaves_the_scores_alone() -> None:
    scores = torch.tensor(SCORES)
    Block(2, 2).pool(scores)
    assert scores.tolist() == SCORES


def test_expand_repeats_the_verdict_for_all_weights_of_a_block() -> None:
    keep = torch.tensor([[True, False], [False, True]])
    assert Block(1, 2).expand(keep).int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert Block(2, 1).expand(keep).int().tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert Block(2, 2).expand(keep).int().tolist() == [[1, 1, 0, 0]] * 2 + [[0, 0, 1, 1]] * 2
    assert UNSTRUCTURED.expand(keep) is keep


@pytest.mark.parametrize("block", [Block(1, 4), Block(4, 1), Block(4, 4), Block(16, 1)])
def test_pooling_what_was_expanded_counts_whole_blocks(block: Block) -> None:
    keep = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(block.pool(block.expand(keep).int()), keep.int() * block.size)
