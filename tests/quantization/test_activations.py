"""Activations on a grid: zero is exact, ranges follow the inputs, clipped values get no gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sparse.quantization.activations import (
    OBSERVERS,
    _follow,
    _follow_numbers,
    _numbers,
    merge,
    observe,
    parameters,
    simulate,
    simulate_per_token,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scalars(low: float = torch.inf, high: float = -torch.inf) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(low), torch.tensor(high)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.5, 3.0), (-3.0, -0.5), (0.0, 0.0), (-1e-3, 1e6)])
def test_zero_is_a_point_of_every_grid(low: float, high: float) -> None:
    scale, zero_point = parameters(*scalars(low, high))
    assert scale > 0 and 0 <= zero_point <= 255 and zero_point.dtype == torch.int32
    assert simulate(torch.zeros(3), *scalars(low, high)).tolist() == [0, 0, 0]


@settings(max_examples=300, deadline=None)
@given(low=st.floats(-1e6, 1e6, width=32), high=st.floats(-1e6, 1e6, width=32))
def test_training_on_a_cpu_rounds_to_the_grid_that_is_exported(low: float, high: float) -> None:
    scale, zero_point = parameters(*scalars(low, high))
    assert _numbers(*scalars(low, high)) == (scale.item(), zero_point.item())


def test_the_error_is_half_a_step_within_the_range_and_clips_beyond() -> None:
    low, high = scalars(-1.0, 2.0)
    scale, _ = parameters(low, high)
    values = torch.linspace(-1, 2, 1001)
    simulated = simulate(values, low, high)
    assert (simulated - values).abs().max() <= scale * 0.5001 + 1e-6
    assert len(simulated.unique()) == 256
    assert simulate(torch.tensor([-5.0, 9.0]), low, high).tolist() == pytest.approx([-1, 2], abs=scale.item())
    assert torch.allclose(simulate(simulated, low, high), simulated)


def test_clipped_values_get_no_gradient_and_others_all_of_it() -> None:
    values = torch.tensor([-5.0, -0.5, 0.0, 1.5, 9.0], requires_grad=True)
    simulate(values, *scalars(-1.0, 2.0)).sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 0]


def test_each_token_has_a_scale_of_its_own() -> None:
    values = torch.stack([noise(8), 1000 * noise(8, seed=1), torch.zeros(8)]).requires_grad_()
    simulated = simulate_per_token(values)
    steps = values.detach().abs().amax(-1, keepdim=True) / 127
    assert ((simulated - values).abs() <= steps * 0.5001).all()
    simulated.sum().backward()
    assert torch.equal(values.grad, torch.ones(3, 8))


@pytest.mark.parametrize("observer", OBSERVERS)
def test_the_first_batch_sets_the_range_and_the_same_again_leaves_it(observer: str) -> None:
    low, high = scalars()
    observe(observer, noise(100, 100), low, high)
    first = low.item(), high.item()
    observe(observer, noise(100, 100), low, high)
    assert (low.item(), high.item()) == pytest.approx(first)
    assert first[0] < -2.5 and first[1] > 2.5


def test_the_moving_average_moves_by_a_hundredth() -> None:
    low, high = scalars(-1.0, 1.0)
    observe("moving_average", torch.tensor([-3.0, 5.0]), low, high)
    assert (low.item(), high.item()) == pytest.approx((-1.02, 1.04))


@pytest.mark.parametrize("share", [None, 0.01])
def test_ranges_follow_alike_on_every_device(share: float | None) -> None:
    numbers, tensors = scalars(), scalars()
    for seed, last in enumerate([0.0, 5.0, float("nan"), -9.0, float("inf"), 1.0]):
        seen = torch.aminmax(torch.cat([noise(50, seed=seed), torch.tensor([last])]))
        _follow_numbers(share, seen.min.item(), seen.max.item(), *numbers)
        _follow(share, seen.min, seen.max, *tensors)
        assert torch.stack(numbers).tolist() == pytest.approx(torch.stack(tensors).tolist(), rel=1e-6)


def test_min_max_never_narrows() -> None:
    low, high = scalars(-1.0, 1.0)
    for values in ([-3.0, 0.5], [-0.1, 4.0], [0.0, 0.0]):
        observe("min_max", torch.tensor(values), low, high)
    assert (low.item(), high.item()) == (-3.0, 4.0)


def test_a_lone_outlier_does_not_stretch_the_range_of_percentiles() -> None:
    values = noise(200, 200)
    values[3, 7] = 1000.0
    low, high = scalars()
    observe("percentile", values, low, high)
    assert 3 < high < 5 and -5 < low < -3


def test_the_least_error_is_what_that_observer_finds() -> None:
    values = noise(50, 50) ** 3
    low, high = scalars()
    observe("mean_squared_error", values, low, high)
    error = (simulate(values, low, high) - values).square().sum()
    for share in (0.9, 1.1):
        other = (simulate(values, low * share, high * share) - values).square().sum()
        assert other >= error * 0.999


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_change_nothing(observer: str, value: float) -> None:
    low, high = scalars(-1.0, 1.0)
    observe(observer, torch.full((3,), value), low, high)
    assert (low.item(), high.item()) == (-1.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (-0.3, 0.1), (0.0, 6.0), (-7.0, 0.0)])
def test_rounding_is_that_of_torch(low: float, high: float, dtype: torch.dtype) -> None:
    values = noise(64, 64).to(dtype)
    scale, zero_point = parameters(*scalars(low, high))
    found, expected = values.clone().requires_grad_(), values.clone().float().requires_grad_()
    ours = simulate(found, *scalars(low, high))
    theirs = torch.fake_quantize_per_tensor_affine(expected, scale, zero_point, 0, 255)
    assert ours.dtype == dtype
    assert torch.allclose(ours.float(), theirs, atol=1e-6 if dtype == torch.float32 else 0.03)
    gradient = noise(64, 64, seed=1)
    ours.backward(gradient.to(dtype)), theirs.backward(gradient)
    assert torch.equal(found.grad == 0, expected.grad == 0)
    assert torch.allclose(found.grad.float(), expected.grad, atol=0.02)


# Rows are processes, columns are layers: seen by both, by one, by none.
LOWS = torch.tensor([[-1.0, torch.inf, torch.inf], [-3.0, -2.0, torch.inf]])
HIGHS = torch.tensor([[2.0, -torch.inf, -torch.inf], [1.0, 5.0, -torch.inf]])


@pytest.mark.parametrize("observer", OBSERVERS)
def test_ranges_of_several_processes_become_one(observer: str) -> None:
    low, high = merge(observer, LOWS, HIGHS)
    widest = OBSERVERS[observer][1] is None
    assert low.tolist() == [-3.0 if widest else -2.0, -2.0, torch.inf]
    assert high.tolist() == [2.0 if widest else 1.5, 5.0, -torch.inf]


@pytest.mark.parametrize("observer", OBSERVERS)
def test_equal_ranges_of_three_processes_stay(observer: str) -> None:
    low, high = torch.tensor([-0.1, -1 / 3]), torch.tensor([0.7, 1e-30])
    merged = merge(observer, low.expand(3, 2), high.expand(3, 2))
    assert torch.equal(merged[0], low) and torch.equal(merged[1], high)
