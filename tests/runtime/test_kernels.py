"""Every path and form against the reference, bit for bit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sparse.runtime import reference
from hf_sparse.runtime.autotune import PackedLayer, best_form, measured_rates
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.cpu import available_paths
from hf_sparse.runtime.integer_layer import FIXED, RANGE, SYMMETRIC, IntegerLayer
from hf_sparse.runtime.linear import RuntimeLinear
from hf_sparse.runtime.weight_forms import Form, count_entries, forms, pack

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")
PATHS = available_paths()


def layer_of(
    rows: int, columns: int, kept: float, dynamic: int, generator: torch.Generator, bias: bool = True
) -> IntegerLayer:
    codes = torch.randint(-127, 128, (rows, columns), generator=generator).to(torch.int8)
    codes[torch.rand(rows, columns, generator=generator) >= kept] = 0
    steps = torch.rand(rows, generator=generator) * 0.02 + 1e-4
    vector = torch.randn(rows, generator=generator) if bias else None
    zero = int(torch.randint(0, 256, (1,), generator=generator))
    step = 0.013 if dynamic == FIXED else 1.0
    return IntegerLayer(codes, steps, vector, dynamic, step, zero if dynamic == FIXED else 0)


def run(path: str, layer: IntegerLayer, values: torch.Tensor, form: Form | None = None) -> torch.Tensor:
    kernels = load_kernels(path)
    form = best_form(kernels, layer.codes) if form is None else form
    weight = pack(kernels, layer.codes, layer.multipliers, layer.bias, form)
    packed = PackedLayer(weight, (layer.input_step, float(layer.input_zero), layer.dynamic), layer.sparsity)
    return RuntimeLinear(kernels, packed)(values)


def forms_of(path: str) -> tuple[Form, ...]:
    return forms(load_kernels(path).group)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_layers_equal_the_reference_bit_for_bit(path: str, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    rows, columns = data.draw(st.integers(1, 23)), data.draw(st.integers(1, 70))
    tokens = data.draw(st.integers(1, 70))
    layer = layer_of(
        rows,
        columns,
        data.draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0])),
        data.draw(st.sampled_from([FIXED, SYMMETRIC, RANGE])),
        generator,
        data.draw(st.booleans()),
    )
    values = torch.randn(tokens, columns, generator=generator) * data.draw(st.sampled_from([0.01, 1.0, 50.0]))
    values[torch.rand(tokens, generator=generator) < 0.1] = 0
    form = data.draw(st.sampled_from(forms_of(path)))
    assert torch.equal(run(path, layer, values, form), reference.linear(layer, values))


@pytest.mark.parametrize("path", PATHS)
def test_rows_that_are_empty_or_full_make_no_difference(path: str) -> None:
    generator = torch.Generator().manual_seed(1)
    layer = layer_of(41, 66, 0.05, FIXED, generator)
    layer.codes[::3] = 0
    layer.codes[5] = 127
    layer.codes[-1] = -127
    values = torch.randn(19, 66, generator=generator)
    for form in forms_of(path):
        assert torch.equal(run(path, layer, values, form), reference.linear(layer, values)), form


@pytest.mark.parametrize("path", PATHS)
def test_the_largest_sums_do_not_overflow(path: str) -> None:
    columns = 65_536
    codes = torch.full((5, columns), 127, dtype=torch.int8)
    layer = IntegerLayer(codes, torch.full((5,), 1e-4), None, FIXED, 1.0, 0)
    values = torch.full((3, columns), 300.0)
    for form in forms_of(path):
        assert torch.equal(run(path, layer, values, form), reference.linear(layer, values)), form


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dynamic", [FIXED, SYMMETRIC, RANGE])
def test_values_that_are_not_finite_stay_with_their_tokens(path: str, dynamic: int) -> None:
    generator = torch.Generator().manual_seed(2)
    layer = layer_of(9, 33, 0.5, dynamic, generator)
    values = torch.randn(21, 33, generator=generator)
    clean = run(path, layer, values)
    values[4, 7], values[9, 1], values[13, 5] = math.nan, math.inf, -math.inf
    found = run(path, layer, values)
    others = [token for token in range(21) if token not in (4, 9, 13)]
    assert torch.equal(found[others], clean[others])
    assert found[4].isnan().all()
    if dynamic == FIXED:
        # As numbers beyond the ends of the grid.
        values[9, 1], values[13, 5] = 1e9, -1e9
        assert torch.equal(found[[9, 13]], run(path, layer, values)[[9, 13]])
    else:
        assert found[[9, 13]].isnan().all()
    torch.testing.assert_close(found, reference.linear(layer, values), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("path", PATHS)
def test_a_weight_of_any_form_is_whole(path: str) -> None:
    generator = torch.Generator().manual_seed(3)
    layer = layer_of(13, 31, 0.3, FIXED, generator)
    # Each feature by itself gives the column of codes back.
    unit = IntegerLayer(layer.codes, torch.ones(13), None, FIXED, 1.0, 0)
    for form in forms_of(path):
        assert torch.equal(run(path, unit, torch.eye(31), form), layer.codes.t().float()), form


@pytest.mark.parametrize("path", PATHS)
def test_entries_are_counted_in_every_form(path: str) -> None:
    kernels = load_kernels(path)
    codes = torch.zeros(8, 16, dtype=torch.int8)
    codes[0, 0] = codes[2, 9] = codes[5, 3] = codes[5, 15] = 1
    group = kernels.group
    for form in forms_of(path):
        if form.wide:
            rows = [codes[at : at + form.tall] for at in range(0, 8, form.tall)]
            blocks = [part.split(form.wide, 1) for part in rows]
            expected = sum(bool(block.any()) for row in blocks for block in row)
        else:
            held = [int(codes[at : at + form.tall].any(0).sum()) for at in range(0, 8, form.tall)]
            expected = sum(math.ceil(count / group) for count in held)
        assert count_entries(kernels, codes, form)[0] == expected, form


def test_a_form_is_chosen_by_what_it_costs() -> None:
    kernels = load_kernels()
    rates = measured_rates(kernels)
    assert set(rates) == set(forms(kernels.group)) and all(rate > 0 for rate in rates.values())
    blocks = torch.zeros(64, 256, dtype=torch.int8)
    blocks[:4, :4] = 1
    assert best_form(kernels, blocks).tall == 4
    assert best_form(kernels, torch.zeros(3, 5, dtype=torch.int8)) in rates


@pytest.mark.parametrize(
    ("codes", "named"),
    [
        (torch.zeros(4, 4), "float32"),
        (torch.zeros(4, dtype=torch.int8), r"\(4,\)"),
        (torch.zeros(0, 4, dtype=torch.int8), r"\(0, 4\)"),
        (torch.zeros(1, 65_537, dtype=torch.int8), "65537 inputs"),
    ],
)
def test_weights_that_are_none_are_refused_by_name(codes: torch.Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        pack(load_kernels(), codes, torch.ones(1), None, Form(4, 4))
