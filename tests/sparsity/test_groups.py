"""Norms of groups and the gradient of their sum: by hand, by autograd, in every layout, compiled or not."""

import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_sparse.native.build import COMPILERS
from hf_sparse.sparsity import groups
from hf_sparse.sparsity.groups import add_gradient, group_norms, measure_groups, shorten_groups
from hf_sparse.sparsity.patterns.block import Block

# The widths for which there is code of their own, and others.
BLOCKS = [Block(1, 1), Block(4, 4), Block(1, 4), Block(4, 1), Block(2, 8), Block(2, 2), Block(4, 3)]
BLOCKS += [Block(1, 24), Block(16, 12), Block(16, 1)]


@pytest.fixture(params=["compiled", "in PyTorch"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in PyTorch":
        monkeypatch.setattr(groups, "runs_compiled", lambda *values: False)
    elif not any(map(shutil.which, COMPILERS)):
        pytest.skip("there is no C++ compiler")
    else:
        assert groups.runs_compiled(torch.zeros(1, 1))


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def naive(weight: torch.Tensor, block: Block) -> torch.Tensor:
    return torch.stack(
        [
            torch.stack([tile.norm() for tile in row.split(block.columns, 1)])
            for row in weight.float().split(block.rows, 0)
        ]
    )


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_norms_are_those_of_each_group(block: Block, dtype: torch.dtype, transposed: bool) -> None:
    weight = noise(16, 24, dtype=dtype)
    laid = weight.t().contiguous().t() if transposed else weight
    for measured in (measure_groups(laid, block), group_norms(laid.float(), block)):
        assert measured.shape == (16 // block.rows, 24 // block.columns)
        torch.testing.assert_close(measured.float(), naive(weight, block), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_gradient_is_that_of_autograd(block: Block, dtype: torch.dtype, transposed: bool) -> None:
    weight, before = noise(16, 24, dtype=dtype), noise(16, 24, seed=1, dtype=dtype)
    weight[4:8] = 0
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    factors = noise(16 // block.rows, 24 // block.columns, seed=2).abs().to(exact)
    reference = weight.to(exact).requires_grad_()
    expected = (factors * group_norms(reference, block)).sum()
    expected.backward()
    assert reference.grad.abs().max() > 0.1 and torch.isfinite(reference.grad).all()
    gradient = before.clone()
    if transposed:
        weight, gradient = weight.t().contiguous().t(), gradient.t().contiguous().t()
    value = add_gradient(weight, gradient, block, factors)
    assert value == pytest.approx(expected.item(), rel=1e-4)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(gradient, (before.to(exact) + reference.grad).to(dtype), **tolerance)


def test_the_gradient_is_the_direction_of_the_group() -> None:
    weight, gradient = torch.tensor([[3.0, 4.0, 0.0, 0.0]]), torch.zeros(1, 4)
    value = add_gradient(weight, gradient, Block(1, 2), torch.tensor([[10.0, 7.0]]), scale=0.5)
    assert value == 25.0
    torch.testing.assert_close(gradient, torch.tensor([[3.0, 4.0, 0.0, 0.0]]))


# No example changes which way it goes.
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries=st.lists(st.sampled_from([0.0, -0.0, 1e-38, 1e-30, 1e-20, -3.0, 1e10]), min_size=16, max_size=16),
    block=st.sampled_from([Block(1, 1), Block(2, 2), Block(1, 4), Block(4, 1)]),
    factor=st.sampled_from([0.0, 1e-7, 1000.0]),
)
def test_no_weight_makes_it_infinite(entries: list[float], block: Block, factor: float) -> None:
    weight, gradient = torch.tensor(entries).view(4, 4), torch.zeros(4, 4)
    factors = torch.full((4 // block.rows, 4 // block.columns), factor)
    add_gradient(weight, gradient, block, factors)
    assert torch.isfinite(gradient).all() and gradient.abs().max() <= factor * 1.0001


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_shrinking_shortens_every_group_by_its_rate(
    block: Block, dtype: torch.dtype, transposed: bool
) -> None:
    weight = noise(16, 24, dtype=dtype)
    weight[4:8] = 0
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    rates = noise(16 // block.rows, 24 // block.columns, seed=2).abs().to(exact)
    before = naive(weight, block)
    laid = weight.t().contiguous().t() if transposed else weight.clone()
    shorten_groups(laid, block, rates / 2, scale=2.0)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    expected = (before - rates.float()).clamp(min=0)
    torch.testing.assert_close(naive(laid, block), expected, rtol=tolerance, atol=tolerance)
    # In the direction they had.
    assert (laid * weight >= 0).all() and not laid[4:8].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_is_none_of_its_business(dtype: torch.dtype) -> None:
    weight = noise(8, 8)
    torch.set_default_dtype(dtype)
    try:
        norms = measure_groups(weight, Block(4, 4))
    finally:
        torch.set_default_dtype(torch.float32)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, naive(weight, Block(4, 4)))


@pytest.mark.parametrize("rate", [float("nan"), 0.0])
def test_no_rate_wipes_a_group_out_by_accident(rate: float) -> None:
    weight = noise(4, 4)
    laid = weight.clone()
    shorten_groups(laid, Block(2, 2), torch.full((2, 2), rate))
    assert laid.isnan().all() if rate else torch.equal(laid, weight)
