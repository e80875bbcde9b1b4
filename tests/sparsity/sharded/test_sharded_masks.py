"""Masks of weights that FSDP2 divides: on 2 and 4 processes they are those of one, bit for bit."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh

from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.mask_update import choose, grow
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.methods.group_lasso import squared
from hf_sparse.sparsity.methods.magnitude import absolute
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.sparsity.revival import RememberedWeights
from hf_sparse.sparsity.streamed.ranked_scores import Score, identity
from hf_sparse.targets import find_targets
from tests.support.runs import differences
from tests.support.shared import Check, divide, layered, run_together, wholes

# Rows that neither processes nor blocks divide, processes without a row, one expert more than processes.
SHAPES = {
    "linear": [(16, 16), (24, 8), (10, 16), (1, 8)],
    "conv1d": [(16, 16, -1), (8, 24, -1), (16, 8, -1)],
    "experts": [(3, 8, 16, 0), (5, 16, 8, 1)],
    "tall": [(48, 3), (32, 2), (64, 1)],
}
PATTERNS = ["unstructured", "4x4", "1x8", "8x1", "16x1", "row", "column", "column/8", "row/2", "2:4"]
ALLOCATIONS = ["uniform", "global", "erk"]
Prepare = Callable[[torch.nn.Module], None]


def as_it_is(model: torch.nn.Module) -> None:
    """Leave the weights alone."""


def tied(model: torch.nn.Module) -> None:
    """Round weights, so that many scores are equal, and many zeros of either sign are not removed."""
    for parameter in model.parameters():
        parameter.data.mul_(2).round_().div_(2)


def history(model: torch.nn.Module, pattern: str, allocation: str, score: Score, anew: bool) -> list[object]:
    """Update the masks of a model at rising sparsity; return everything that can be asked of them."""
    masks = Masks(find_targets(model))
    layout, found = Layout(masks.targets, parse_pattern(pattern), allocation, 0.1), list[object]()
    for sparsity in (0.25, 0.5):
        budgets = layout.budgets(lambda final, now=sparsity: now)
        if anew:
            choose(masks, budgets, score, layout.blocks)
        else:
            found.append(grow(masks, budgets, score, layout.blocks))
            masks.apply_to_weights()
        found += [masks.sparsity, masks.digest(), [masks.removed(name) for name in masks.targets.names]]
    return found


def same(
    mesh: DeviceMesh,
    kind: str,
    turn: int = 0,
    prepare: Prepare = as_it_is,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Compare every pattern on one kind of layers, with allocations in turn, beginning at number `turn`."""
    for number, pattern in enumerate(PATTERNS, turn):
        fitting = [shape for shape in SHAPES[kind] if _fits(shape, pattern)]
        allocation, anew = ALLOCATIONS[number % 3], number % 2 == 1
        if allocation == "global" and ("row" in pattern or "column" in pattern):
            # Blocks of one size alone are ranked together.
            fitting = fitting[:1]
        if not fitting:
            continue
        results = []
        for shared in (False, True):
            model = layered(*fitting, dtype=dtype)
            prepare(model)
            model = divide(model, mesh) if shared else model
            results.append(history(model, pattern, allocation, squared if anew else absolute, anew))
        assert results[0] == results[1], (pattern, allocation, anew)


def _fits(shape: tuple[int, ...], pattern: str) -> bool:
    try:
        Layout(find_targets(layered(shape)), parse_pattern(pattern))
    except ValueError:
        return False
    return True


def linear(mesh: DeviceMesh) -> None:
    same(mesh, "linear")


def conv1d(mesh: DeviceMesh) -> None:
    same(mesh, "conv1d")


def experts(mesh: DeviceMesh) -> None:
    same(mesh, "experts")


def tall(mesh: DeviceMesh) -> None:
    same(mesh, "tall")


def ties(mesh: DeviceMesh) -> None:
    same(mesh, "linear", 1, tied)
    same(mesh, "conv1d", 2, tied)


def chunks(mesh: DeviceMesh) -> None:
    with patch("hf_sparse.sparsity.sharded.selection._CHUNK", 16):
        same(mesh, "linear", 0, tied)
        same(mesh, "conv1d", 4)


def half(mesh: DeviceMesh) -> None:
    same(mesh, "linear", 3, dtype=torch.bfloat16)
    same(mesh, "experts", 4, dtype=torch.float16)


def double(mesh: DeviceMesh) -> None:
    same(mesh, "conv1d", 5, dtype=torch.float64)


def not_a_number(mesh: DeviceMesh) -> None:
    for pattern in ("unstructured", "4x4", "column"):
        model = layered((16, 16))
        model.layers[0].weight.data[3, :15] = float("nan")
        model.layers[0].weight.data[9:, 3:] = float("nan")
        with pytest.raises(FloatingPointError, match="not numbers"):
            history(divide(model, mesh), pattern, "uniform", absolute, False)


def infinite(mesh: DeviceMesh) -> None:
    for number, pattern in enumerate(("unstructured", "4x4", "column", "2:4")):
        results = []
        for shared in (False, True):
            model = layered((16, 16), (24, 8), (16, 16, -1))
            for target in find_targets(model):
                target.weight.detach()[::2, ::3] = -torch.inf
            model = divide(model, mesh) if shared else model
            results.append(history(model, pattern, ALLOCATIONS[number % 3], identity, number % 2 == 1))
        assert results[0] == results[1], pattern


def parts_are_views(mesh: DeviceMesh) -> None:
    model = divide(layered(*SHAPES["linear"], *SHAPES["conv1d"], *SHAPES["experts"]), mesh)
    plain = layered(*SHAPES["linear"], *SHAPES["conv1d"], *SHAPES["experts"])
    for target, whole in zip(find_targets(model), find_targets(plain), strict=True):
        assert target.shape == whole.shape
        part = target.part
        assert part is not None and torch.equal(target.weight, part.cut(whole.weight))
        target.weight.detach().zero_()
    assert not any(values.any() for values in wholes(model).values())


def remembered(mesh: DeviceMesh) -> None:
    packed = []
    for shared in (False, True):
        model = layered(*SHAPES["linear"], *SHAPES["conv1d"], *SHAPES["experts"])
        model = divide(model, mesh) if shared else model
        masks = Masks(find_targets(model))
        layout = Layout(masks.targets, parse_pattern("unstructured"), "global", 0.1)
        grow(masks, layout.budgets(lambda final: 0.5), absolute, layout.blocks)
        before = [target.weight.detach().clone() for target in masks.targets]
        values = RememberedWeights(masks)
        values.withdraw()
        packed.append(values.pack())
        other = RememberedWeights(masks)
        other.unpack(packed[0])
        other.restore()
        assert all(
            torch.equal(target.weight, weight) for target, weight in zip(masks.targets, before, strict=True)
        )
    assert packed[0].keys() == {target.name for target in masks.targets}
    # The process that writes the file is the only one that keeps them.
    expected = packed[0] if mesh.get_rank() == 0 else {}
    assert list(differences(packed[1], expected)) == []


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        linear,
        conv1d,
        experts,
        tall,
        ties,
        chunks,
        half,
        double,
        not_a_number,
        infinite,
        parts_are_views,
        remembered,
    )
}


@pytest.fixture(scope="module", params=[2, 4])
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return run_together(CHECKS, (request.param,), tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("check", CHECKS)
def test_processes_prune_as_one_does(check: str, errors: dict[str, list[str]]) -> None:
    assert errors[check] == [], errors[check][0]
