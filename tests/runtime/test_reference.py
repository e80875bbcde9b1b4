"""The reference against PyTorch's own functions and the fake-quantized layers."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.runtime import reference
from hf_sparse.runtime.encoders import layer_reference
from hf_sparse.runtime.integer_layer import integer_layer, quantized_linears

VALUES = torch.linspace(-30, 30, 20001)


@pytest.mark.parametrize(
    ("mine", "torchs", "tolerance"),
    [
        (reference.gelu, functional.gelu, 3e-5),
        (reference.gelu_tanh, lambda x: functional.gelu(x, approximate="tanh"), 1e-5),
        (reference.silu, functional.silu, 1e-5),
        (reference.relu, functional.relu, 0.0),
        (reference.sigmoid, torch.sigmoid, 1e-6),
    ],
)
def test_activations_are_those_of_pytorch(mine, torchs, tolerance) -> None:
    torch.testing.assert_close(mine(VALUES), torchs(VALUES), rtol=0, atol=tolerance)


def rounded(exact: Fraction) -> float:
    """Return the float32 that is nearest to a number, ties to even, found among its neighbors."""
    near = torch.tensor(float(exact)).view(torch.int32)
    around = (near + torch.arange(-1, 2, dtype=torch.int32)).view(torch.float32).tolist()
    # Neighbors have last bits of 0 and 1 in turns.
    odd = dict(zip(around, ((near + torch.arange(-1, 2)) % 2).tolist(), strict=True))
    return min(around, key=lambda value: (abs(Fraction(value) - exact), odd[value]))


def test_products_and_sums_are_rounded_once() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other, term = torch.randn(3, 2000, generator=generator)
    # Sums of numbers of different sizes, and where they cancel.
    term[500:] *= 2.0 ** torch.randint(-30, 30, (1500,), generator=generator)
    term[1500:] = -(one * other)[1500:]
    # A little below the middle between two floats: float64 rounds it to the middle, and then to the even one.
    little = 2.0**-23
    one[:2] = 1 + little
    other[:2] = torch.tensor([1, -1]) * (1 - little) * 2.0**-24
    term[:2] = torch.tensor([1, -1]) * (1 + little)
    found = reference.fused(one, other, term).tolist()
    parts = zip(one.tolist(), other.tolist(), term.tolist(), strict=True)
    exact = [Fraction(a) * Fraction(b) + Fraction(c) for a, b, c in parts]
    assert found == [rounded(value) for value in exact]


def test_powers_of_two_are_as_precise_as_probabilities_need() -> None:
    values = torch.linspace(-120, 0, 100001)
    exact = (values.double() * 0.5).exp2()
    found = reference.power_of_two(values, torch.tensor(0.5)).double()
    assert ((found - exact).abs() / exact).max() < 8e-5 and found.max() < 1


def test_the_exponential_is_exact_to_a_few_units_in_the_last_place() -> None:
    values = torch.linspace(-87, 88, 100001)
    exact = values.double().exp()
    assert ((reference.exponential(values).double() - exact).abs() / exact).max() < 3e-7
    assert reference.exponential(torch.tensor([-1e30]))[0] > 0


@pytest.mark.parametrize("tokens", [1, 2, 7, 33])
@pytest.mark.parametrize("width", [1, 4, 7, 64])
def test_attention_is_near_that_of_pytorch(tokens: int, width: int) -> None:
    generator = torch.Generator().manual_seed(tokens * width)
    q, k, v = (torch.randn(tokens, width, generator=generator) * 3 for _ in range(3))
    exact = functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    torch.testing.assert_close(
        layer_reference.attention(q, k, v), exact, rtol=0, atol=5e-3 * math.sqrt(width)
    )


def test_normalize_is_layer_norm() -> None:
    values = torch.randn(5, 37, generator=torch.Generator().manual_seed(0)) * 4 + 2
    weight, bias = torch.rand(37) + 0.5, torch.randn(37)
    exact = functional.layer_norm(values, (37,), weight, bias, 1e-5)
    torch.testing.assert_close(
        layer_reference.normalize(values, weight, bias, 1e-5), exact, rtol=1e-5, atol=1e-5
    )


class _One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 12)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.layer(values)


@pytest.mark.parametrize("activations", ["uint8_per_tensor", "int8_per_token"])
@pytest.mark.parametrize("weights", ["int8_per_channel", "int8_per_tensor", "int4_per_channel"])
def test_a_layer_gives_what_the_fake_quantized_one_gives(weights: str, activations: str) -> None:
    torch.manual_seed(0)
    model = _One().eval()
    values = torch.randn(40, 24)
    from hf_sparse.targets import Target, Targets

    targets = Targets((Target("layer.weight", model.layer),), ())
    calibrate(model, [{"values": values}], weights=weights, activations=activations, targets=targets)
    layer = integer_layer("layer", model.layer, quantized_linears(model)[model.layer])
    with torch.no_grad():
        torch.testing.assert_close(reference.linear(layer, values), model(values), rtol=1e-5, atol=1e-5)


def test_a_plain_layer_is_rounded_to_eight_bits() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(64, 16)
    values = torch.randn(10, 64)
    found = reference.linear(integer_layer("plain", plain, None), values)
    exact = plain(values)
    assert (found - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize(("tokens", "most"), [(128, 5e-4), (512, 1.5e-3), (2048, 1.5e-3)])
def test_the_error_of_attention_is_that_of_docs_runtime(tokens: int, most: float) -> None:
    generator = torch.Generator().manual_seed(tokens)
    q, k, v = (torch.randn(tokens, 64, generator=generator) for _ in range(3))
    exact = functional.scaled_dot_product_attention(q.double()[None], k.double()[None], v.double()[None])[0]
    assert (layer_reference.attention(q, k, v) - exact).norm() / exact.norm() < most
    # What rounding to 8 bits over their range costs the same numbers.
    step = (exact.max() - exact.min()) / 255
    assert ((exact / step).round() * step - exact).norm() / exact.norm() > 4e-3
