"""Divergence and gradient equal their definition for any dtype, block size and set of rows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hf_sparse.distillation import kl as divergence
from hf_sparse.distillation.kl import Largest, bernoulli, categorical


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def textbook(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    ours, theirs = ((tensor / temperature).log_softmax(-1) for tensor in (student, teacher))
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum()


def gradient(
    student: Tensor, teacher: Tensor, temperature: float = 2.0, keep: Tensor | None = None
) -> Tensor:
    leaf = student.clone().requires_grad_()
    categorical(leaf, teacher, temperature, keep).backward()
    return leaf.grad


def test_two_classes_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert categorical(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-6)
    assert torch.allclose(gradient(student, teacher, 1.0), torch.tensor([[-0.25, 0.25]]), atol=1e-7)


def test_temperature_softens_both_sides_then_restores_the_size() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert categorical(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_at_temperature_one_it_is_cross_entropy_less_the_teachers_entropy() -> None:
    student, teacher = logits(5, 7), logits(5, 7, seed=1)
    wanted = teacher.softmax(-1)
    cross = functional.cross_entropy(student, wanted, reduction="sum")
    entropy = -(wanted * wanted.log()).sum()
    assert torch.allclose(categorical(student, teacher, 1.0), cross - entropy, rtol=1e-5)


def test_gradients_tend_to_a_limit_as_the_temperature_grows() -> None:
    student, teacher = logits(4, 6), logits(4, 6, seed=1)
    centered = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    for temperature in (1e3, 1e4):
        assert torch.allclose(gradient(student, teacher, temperature), centered / 6, atol=5e-3)


@pytest.mark.parametrize("elements", [1, 40, 2**17])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 11), (1, 2)])
def test_value_and_gradient_are_the_textbooks_in_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], temperature: float, elements: int
) -> None:
    monkeypatch.setitem(divergence._ELEMENTS_AT_ONCE, "cpu", elements)
    student, teacher = logits(*shape).requires_grad_(), logits(*shape, seed=1)
    expected = textbook(student, teacher, temperature)
    (slope,) = torch.autograd.grad(expected, student)
    assert torch.allclose(categorical(student, teacher, temperature), expected, rtol=1e-5)
    assert torch.allclose(gradient(student.detach(), teacher, temperature), slope, atol=1e-6)


@pytest.mark.parametrize("keep", [None, torch.tensor([True, False, True])])
def test_gradcheck_passes_in_double_precision(keep: Tensor | None) -> None:
    student, teacher = logits(3, 4, dtype=torch.float64), logits(3, 4, seed=1, dtype=torch.float64)
    total = categorical(student, teacher, 2.0, keep)
    assert total.dtype == torch.float64
    assert torch.autograd.gradcheck(lambda s: categorical(s, teacher, 2.0, keep), student.requires_grad_())
    assert torch.autograd.gradcheck(lambda s: bernoulli(s, teacher, 2.0), student)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_compared_in_single_precision(dtype: torch.dtype) -> None:
    student, teacher = logits(8, 50, dtype=dtype), logits(8, 50, seed=1, dtype=dtype)
    total = categorical(student, teacher, 2.0)
    assert total.dtype == torch.float32
    assert torch.equal(total, categorical(student.float(), teacher.float(), 2.0))
    slope = gradient(student, teacher)
    assert slope.dtype == dtype
    assert torch.allclose(slope.float(), gradient(student.float(), teacher.float()), rtol=1e-2, atol=1e-6)


def test_autocast_does_not_lower_the_precision() -> None:
    student, teacher = logits(8, 50), logits(8, 50, seed=1)
    expected = categorical(student, teacher, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(categorical(student, teacher, 2.0), expected)


def test_loss_scale_lifts_float16_gradients_that_are_too_small_for_float16() -> None:
    student = torch.zeros(1, 2**15, dtype=torch.float16).requires_grad_()
    teacher = torch.zeros(1, 2**15)
    teacher[0, 0] = 1.0
    (2.0**16 * categorical(student, teacher, 1.0)).backward()
    assert student.grad[0, 1:].count_nonzero() == 2**15 - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_teacher_that_agrees_gives_exactly_no_loss_or_gradient(dtype: torch.dtype) -> None:
    same = logits(6, 1000, dtype=dtype)
    assert categorical(same, same.clone(), 2.0) == 0
    assert not gradient(same, same.clone()).any()
    assert bernoulli(same, same.clone(), 2.0) == 0


@given(st.floats(-1000, 1000), st.floats(0.25, 8), st.integers(0, 50))
def test_a_constant_added_to_a_row_changes_nothing(shift: float, temperature: float, seed: int) -> None:
    student, teacher = logits(3, 9, seed=seed), logits(3, 9, seed=seed + 1)
    expected = categorical(student, teacher, temperature)
    assert expected >= 0
    assert torch.allclose(categorical(student + shift, teacher, temperature), expected, rtol=1e-2, atol=1e-2)
    assert torch.allclose(categorical(student, teacher + shift, temperature), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("hidden", [float("nan"), float("inf"), 1e30])
def test_rows_left_out_count_nothing_whatever_they_hold(hidden: float) -> None:
    student, teacher = logits(2, 3, 5), logits(2, 3, 5, seed=1)
    keep = torch.tensor([[True, True, False], [True, False, False]])
    kept = categorical(student[keep], teacher[keep], 2.0)
    student[~keep], teacher[~keep] = hidden, hidden
    assert torch.allclose(categorical(student, teacher, 2.0, keep), kept, rtol=1e-6)
    slope = gradient(student, teacher, keep=keep)
    assert not slope[~keep].any()
    assert torch.allclose(slope[keep], gradient(student[keep], teacher[keep]))


def test_keeping_every_row_equals_naming_none() -> None:
    student, teacher = logits(2, 3, 5), logits(2, 3, 5, seed=1)
    everything = torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(categorical(student, teacher, 2.0, everything), categorical(student, teacher, 2.0))


def test_keeping_no_row_gives_no_loss_or_gradient() -> None:
    nothing = torch.zeros(3, dtype=torch.bool)
    assert categorical(logits(3, 5), logits(3, 5, seed=1), 2.0, nothing) == 0
    assert not gradient(logits(3, 5), logits(3, 5, seed=1), keep=nothing).any()


def test_classes_that_both_exclude_count_nothing() -> None:
    student, teacher = logits(3, 5), logits(3, 5, seed=1)
    expected = categorical(student[:, :4], teacher[:, :4], 2.0)
    student[:, 4], teacher[:, 4] = -math.inf, -math.inf
    assert torch.allclose(categorical(student, teacher, 2.0), expected, rtol=1e-5)
    slope = gradient(student, teacher)
    assert torch.allclose(slope[:, :4], gradient(student[:, :4], teacher[:, :4]), atol=1e-6)
    assert not slope[:, 4].any()


def test_a_class_only_the_teacher_excludes_has_a_finite_loss() -> None:
    student, teacher = logits(3, 5), logits(3, 5, seed=1)
    teacher[:, 4] = -math.inf
    assert 0 < categorical(student, teacher, 2.0) < math.inf
    assert (gradient(student, teacher)[:, 4] > 0).all()


def test_a_student_that_is_not_a_number_is_reported_as_such() -> None:
    student = logits(3, 5)
    student[1, 2] = math.nan
    assert categorical(student, logits(3, 5, seed=1), 2.0).isnan()


def test_bernoulli_is_the_sum_of_the_divergences_of_yes_or_no() -> None:
    student, teacher = logits(4, 3), logits(4, 3, seed=1)
    p, q = (teacher / 2).sigmoid(), (student / 2).sigmoid()
    expected = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    assert torch.allclose(bernoulli(student, teacher, 2.0), expected, rtol=1e-4)


def test_inputs_are_left_as_they_were() -> None:
    student, teacher = logits(3, 5), logits(3, 5, seed=1)
    gradient(student, teacher, 1.0)
    categorical(student, teacher, 1.0)
    assert torch.equal(student, logits(3, 5))
    assert torch.equal(teacher, logits(3, 5, seed=1))


def test_the_teacher_receives_no_gradient() -> None:
    student, teacher = logits(3, 5).requires_grad_(), logits(3, 5, seed=1).requires_grad_()
    categorical(student, teacher, 2.0).backward()
    assert teacher.grad is None


def test_without_gradients_no_memory_is_spent_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(divergence, "_empty_gradient")
    assert not categorical(logits(3, 5), logits(3, 5, seed=1), 2.0).requires_grad


class Copies(TorchDispatchMode):
    """Counts the numbers that are copied between tensors."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.copy_.default, torch.ops.aten.index_put_.default):
            self.numbers += args[0].numel()
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("k", [None, 2])
def test_the_gradient_is_computed_where_it_stays(k: int | None) -> None:
    student, teacher = logits(30, 5).requires_grad_(), logits(30, 5, seed=1)
    known = teacher if k is None else Largest.of(teacher, k, 2.0)
    with Copies() as copies:
        categorical(student, known, 2.0)
    assert copies.numbers == 0


def test_a_second_backward_pass_is_refused_rather_than_wrong() -> None:
    total = categorical(logits(3, 5).requires_grad_(), logits(3, 5, seed=1), 2.0)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        total.backward()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"above 0, got {temperature}"):
        categorical(logits(3, 5), logits(3, 5), temperature)
