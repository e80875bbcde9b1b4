"""Weights on a grid: zero stays zero, errors are bounded, gradients pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sparse.quantization.weights import WeightScheme, read_weight_scheme

SCHEMES = [
    "int8_per_channel",
    "int8_per_tensor",
    "int4_per_channel",
    "int4_group_8",
    "int2_group_4",
    "int5_per_tensor",
]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("text", SCHEMES)
def test_a_scheme_is_written_as_it_is_read(text: str) -> None:
    assert str(read_weight_scheme(text)) == text


@pytest.mark.parametrize(
    "text", ["", "int8", "int9_per_channel", "int1_per_tensor", "uint8_per_channel", "int4_group_0"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a scheme of weights; write int8_per_channel"):
        read_weight_scheme(text)


@pytest.mark.parametrize(
    ("text", "shape"), [("int8_per_channel", (6, 1)), ("int8_per_tensor", (1, 1)), ("int4_group_8", (6, 2))]
)
def test_scales_are_shared_as_the_scheme_says(text: str, shape: tuple[int, int]) -> None:
    scheme, weight = read_weight_scheme(text), noise(6, 16)
    scales = scheme.scales(weight)
    assert scales.shape == shape and scales.dtype == torch.float32
    largest = weight.abs().view(shape[0], -1, weight.numel() // (shape[0] * shape[1])).amax(-1)
    assert torch.equal(scales, (largest.view(shape) / scheme.highest).bfloat16().float())
    largest = weight.half().abs().view(shape[0], -1, weight.numel() // (shape[0] * shape[1])).amax(-1)
    assert torch.equal(scheme.scales(weight.half()), largest.float().view(shape) / scheme.highest)


@settings(max_examples=300, deadline=None)
@given(
    largest=st.floats(min_value=2.0**-149, max_value=2.0**126, width=32),
    bits=st.integers(2, 8),
)
def test_the_largest_weight_is_the_largest_code_and_gives_its_step_back(largest: float, bits: int) -> None:
    scheme, weight = WeightScheme(bits), torch.tensor([[largest, -largest, largest / 3, 0.0]])
    steps = scheme.scales(weight)
    restored = scheme.restore(scheme.codes(weight, steps), steps)
    if largest < 2.0**-118 and steps == 1:
        # Too small for a step with all its digits: zeros, and no code that does not fit.
        assert not restored.any()
    else:
        assert scheme.codes(weight, steps)[0, :2].tolist() == [scheme.highest, -scheme.highest]
        assert torch.equal(scheme.scales(restored), steps)


@pytest.mark.parametrize("text", SCHEMES)
def test_codes_use_the_whole_grid_and_restore_what_is_simulated(text: str) -> None:
    scheme, weight = read_weight_scheme(text), noise(8, 16)
    scales = scheme.scales(weight)
    codes = scheme.codes(weight, scales)
    assert codes.dtype == torch.int8 and codes.shape == weight.shape
    assert codes.abs().max() == scheme.highest
    assert torch.equal(scheme.restore(codes, scales), scheme.simulate(weight))


@settings(max_examples=50, deadline=None)
@given(
    entries=st.lists(
        st.sampled_from([0.0, -0.0, 1e-30, 1.0, -3.0, 127.0, 1e5, 0.3]), min_size=32, max_size=32
    ),
    text=st.sampled_from(SCHEMES),
)
def test_zeros_stay_zeros_and_errors_are_half_a_step(entries: list[float], text: str) -> None:
    scheme, weight = read_weight_scheme(text), torch.tensor(entries).view(4, 8)
    simulated = scheme.simulate(weight)
    assert not simulated[weight == 0].any() and torch.isfinite(simulated).all()
    steps = scheme.scales(weight).repeat_interleave(8 // scheme.scales(weight).shape[1], 1).expand(4, 8)
    assert ((simulated - weight).abs() <= steps * 0.5001).all()


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_rounding_twice_changes_nothing_more(text: str, dtype: torch.dtype) -> None:
    scheme, weight = read_weight_scheme(text), noise(8, 16).to(dtype)
    once = scheme.simulate(weight)
    assert once.dtype == dtype
    codes = [scheme.codes(values, scheme.scales(values)) for values in (weight, once)]
    assert torch.equal(*codes)
    assert len(once.unique()) <= (2 * scheme.highest + 1) * scheme.scales(weight).numel()


def test_a_row_of_zeros_has_a_harmless_scale() -> None:
    weight = noise(3, 4)
    weight[1] = 0
    scheme = WeightScheme()
    assert scheme.scales(weight)[1] == 1.0
    assert torch.equal(scheme.simulate(weight)[1], torch.zeros(4))


@pytest.mark.parametrize("text", SCHEMES)
def test_the_gradient_passes_straight_through(text: str) -> None:
    weight, gradient = noise(8, 16).requires_grad_(), noise(8, 16, seed=1)
    read_weight_scheme(text).simulate(weight).backward(gradient)
    assert torch.equal(weight.grad, gradient)


def test_a_transposed_view_is_rounded_like_its_copy() -> None:
    weight = noise(16, 8).t()
    for text in SCHEMES:
        scheme = read_weight_scheme(text)
        assert torch.equal(scheme.simulate(weight), scheme.simulate(weight.contiguous()))


def test_a_group_that_does_not_divide_a_row_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match="int4_group_32 does not cover layer.weight of shape 8 x 48: 48 inputs"
    ):
        read_weight_scheme("int4_group_32").check("layer.weight", (8, 48))
    read_weight_scheme("int4_group_16").check("layer.weight", (8, 48))
