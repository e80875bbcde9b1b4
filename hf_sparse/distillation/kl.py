"""Temperature-scaled Kullback-Leibler divergence with little memory for large vocabularies."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# On a CPU, blocks of rows fit a core's cache; accelerators run faster with fewer, larger kernels.
_ELEMENTS_AT_ONCE = {"cpu": 2**17}
_ELEMENTS_AT_ONCE_ELSEWHERE = 2**24


def categorical(student: Tensor, teacher: Tensor, temperature: float, keep: Tensor | None = None) -> Tensor:
    """Return the sum over rows of T^2 KL(softmax(teacher / T) || softmax(student / T)).

    Only the student receives a gradient. A second backward pass through the result raises `RuntimeError`,
    except in float64.

    Args:
        student: Logits (..., classes).
        teacher: Logits of the same shape.
        temperature: T, above 0.
        keep: Boolean mask (...) of the rows to sum; other rows may hold any values. None sums all.

    Returns:
        A scalar, float64 for float64 logits, else float32, also under autocast.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, got {temperature}; 1 leaves the logits as they are")
    rows = (logits.reshape(-1, logits.shape[-1]) for logits in (student, teacher))
    return _Categorical.apply(*rows, temperature, None if keep is None else _chosen_rows(keep))


def bernoulli(student: Tensor, teacher: Tensor, temperature: float, keep: Tensor | None = None) -> Tensor:
    """Return the sum of T^2 KL over independent binary logits, with probability sigmoid(logit / T).

    Logits and `keep` have the same shape (...); otherwise as `categorical`.
    """
    return categorical(_against_zero(student), _against_zero(teacher), temperature, keep)


def _against_zero(logits: Tensor) -> Tensor:
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)


def _chosen_rows(keep: Tensor) -> Tensor | None:
    chosen = keep.reshape(-1).nonzero().squeeze(1)
    return None if len(chosen) == keep.numel() else chosen


class _Context(Protocol):
    """The parts of autograd's context that are used here; its stub lacks them."""

    needs_input_grad: tuple[bool, ...]
    gradient: Tensor | None


class _Categorical(torch.autograd.Function):
    """Computes blocks of rows and keeps only the gradient, which `backward` scales in place."""

    @staticmethod
    def forward(
        ctx: _Context, student: Tensor, teacher: Tensor, temperature: float, chosen: Tensor | None
    ) -> Tensor:
        gradient = _empty_gradient(student, chosen) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=_precision(student), device=student.device)
        for rows in _blocks(student, chosen):
            divergence, slope = _divergence(
                *(_shifted(logits[rows], temperature) for logits in (student, teacher))
            )
            total += divergence
            if gradient is not None:
                gradient[rows] = slope.mul_(temperature).to(gradient.dtype)
        ctx.gradient = gradient
        return total * temperature**2

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = ctx.gradient
        if upstream.dtype != torch.float64:
            # Numerical checks of gradients use float64 and run backward several times.
            ctx.gradient = None
        if gradient is None:
            raise RuntimeError(
                "the distillation loss releases its gradient in the first backward pass; "
                "compute the loss again instead of using retain_graph=True"
            )
        scaled = gradient * upstream if upstream.dtype == torch.float64 else gradient.mul_(upstream)
        return scaled, None, None, None


def _empty_gradient(student: Tensor, chosen: Tensor | None) -> Tensor:
    # float16 would round small gradients to zero before they are multiplied by the loss scale.
    dtype = torch.float32 if student.dtype == torch.float16 else student.dtype
    create = torch.empty_like if chosen is None else torch.zeros_like
    return create(student, dtype=dtype)


def _blocks(logits: Tensor, chosen: Tensor | None) -> Iterator[slice | Tensor]:
    elements = _ELEMENTS_AT_ONCE.get(logits.device.type, _ELEMENTS_AT_ONCE_ELSEWHERE)
    size = max(1, elements // logits.shape[1])
    count = len(logits) if chosen is None else len(chosen)
    for start in range(0, count, size):
        rows = slice(start, start + size)
        yield rows if chosen is None else chosen[rows]


def _precision(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _shifted(logits: Tensor, temperature: float) -> Tensor:
    """Return logits / T in a new tensor, shifted so that the maximum of each row is 0."""
    logits = logits.to(_precision(logits))
    return torch.add(logits.amax(-1, keepdim=True) / -temperature, logits, alpha=1 / temperature)


def _divergence(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of KL over rows of shifted logits, and softmax(student) - softmax(teacher).

    With Z the sum of a row's exponentials, KL = sum(exp(t) (t - s)) / Z_t + log Z_s - log Z_t, which takes
    one exponential per element. Overwrites its arguments.
    """
    weight, student_weight = teacher.exp(), student.exp()
    normalizer, student_normalizer = weight.sum(-1, keepdim=True), student_weight.sum(-1, keepdim=True)
    # For a teacher's logit of -inf the product is NaN; its limit is 0.
    gap = teacher.sub_(student).mul_(weight).nansum(-1, keepdim=True)
    divergence = (gap / normalizer + student_normalizer.log() - normalizer.log()).sum()
    return divergence, student_weight.div_(student_normalizer).sub_(weight.div_(normalizer))
