"""The divergence over the largest classes and all others as one, and how far it is from that over all."""

from math import log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from hf_sparse.distillation.kl import Largest, categorical

CLASSES = 40


def logits(seed: int, rows: int = 6, wide: float = 3.0) -> Tensor:
    return wide * torch.randn(
        rows, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def folded(values: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Return log probabilities of the classes, and of all others together."""
    logs = (values / temperature).log_softmax(-1)
    others = logs.scatter(-1, classes, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logs.gather(-1, classes), others], -1)


@pytest.mark.parametrize("k", [1, 5, CLASSES - 1])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_it_is_the_divergence_of_folded_distributions(k: int, temperature: float) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    known = Largest.of(teacher, k, temperature)
    loss = categorical(student, known, temperature)
    pair = [folded(values, known.classes, temperature) for values in (student, teacher)]
    expected = kl_div(*pair, reduction="sum", log_target=True) * temperature**2
    torch.testing.assert_close(loss, expected)
    (ours,), (theirs,) = (torch.autograd.grad(value, student) for value in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_rows_that_are_left_out_have_no_part() -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    keep = torch.tensor([True, False, True, True, False, True])
    known = Largest.of(teacher, 5, 2.0)
    loss = categorical(student, known, 2.0, keep)
    loss.backward()
    alone = categorical(student.detach()[keep], Largest.of(teacher[keep], 5, 2.0), 2.0)
    torch.testing.assert_close(loss, alone)
    assert not student.grad[~keep].any() and student.grad[keep].all()


@pytest.mark.parametrize("k", [2, 10, 30])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_difference_to_all_classes_is_bounded(k: int, temperature: float) -> None:
    """Folding loses the divergence among the others: at most T times their mass and the gaps' spread."""
    for seed in range(20):
        student, teacher = logits(seed, rows=1), logits(seed + 100, rows=1)
        known = Largest.of(teacher, k, temperature)
        lost = categorical(student, teacher, temperature) - categorical(student, known, temperature)
        gaps = teacher - student
        others = torch.ones(1, CLASSES, dtype=torch.bool).scatter(-1, known.classes, False)
        mass = (teacher / temperature).softmax(-1)[others].sum()
        spread = gaps[others].max() - gaps[others].min()
        assert -1e-12 <= lost <= temperature * mass * spread


def test_nothing_underflows_for_a_student_that_is_sure() -> None:
    student = torch.full((1, CLASSES), -200.0).index_fill(1, torch.tensor(3), 200.0).requires_grad_()
    teacher = torch.zeros(1, CLASSES).index_fill(1, torch.tensor(3), 1.0)
    known = Largest.of(teacher, 1, 1.0)
    loss = categorical(student, known, 1.0)
    loss.backward()
    known = teacher.softmax(-1)[0, 3].item()
    others = 1 - known
    expected = known * log(known) + others * (log(others) + 400 - log(CLASSES - 1))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert student.grad.isfinite().all()
    assert student.grad[0, 3] == pytest.approx(others, rel=1e-5)


def test_student_and_teacher_that_agree_have_no_loss_and_no_gradient() -> None:
    student = logits(0).float().requires_grad_()
    loss = categorical(student, Largest.of(student.detach(), 5, 2.0), 2.0)
    loss.backward()
    assert loss.abs() < 1e-5 and student.grad.abs().max() < 1e-6


def test_another_temperature_is_refused() -> None:
    with pytest.raises(ValueError, match=r"known at temperature 2.0, got 1.0; compute"):
        categorical(logits(0), Largest.of(logits(1), 3, 2.0), 1.0)


@pytest.mark.parametrize("broken", ["student", "teacher"])
def test_what_is_not_a_number_shows_in_the_loss(broken: str) -> None:
    student, teacher = logits(0).float(), logits(1).float()
    {"student": student, "teacher": teacher}[broken][0, 0] = torch.nan
    assert categorical(student, Largest.of(teacher, 3, 1.0), 1.0).isnan()
