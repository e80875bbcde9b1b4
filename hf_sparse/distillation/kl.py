"""Temperature-scaled Kullback-Leibler divergence with little memory for large vocabularies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# On a CPU, blocks of rows fit a core's cache; accelerators run faster with fewer, larger kernels.
_ELEMENTS_AT_ONCE = {"cpu": 2**17}
_ELEMENTS_AT_ONCE_ELSEWHERE = 2**24


@dataclass(frozen=True, eq=False)
class Largest:
    """Logits (..., classes) of which only the largest are known, and the mass of all others together.

    Args:
        values: The k largest logits (..., k).
        classes: Their classes, int64 (..., k).
        rest: T log of the sum of exp(logit / T) over all other classes (...), T being `temperature`.
        count: The number of all classes, above k.
        temperature: The temperature that `rest` holds for.
    """

    values: Tensor
    classes: Tensor
    rest: Tensor
    count: int
    temperature: float

    @property
    def shape(self) -> torch.Size:
        """The shape of all logits."""
        return torch.Size((*self.values.shape[:-1], self.count))

    @classmethod
    def of(cls, logits: Tensor, k: int, temperature: float) -> "Largest":
        """Return the `k` largest logits of each row (..., classes), computed in blocks of rows."""
        rows, found = logits.reshape(-1, logits.shape[-1]), []
        for block in _blocks(rows, None):
            known = rows[block].to(_precision(rows))
            values, classes = known.topk(k)
            others = (known / temperature).scatter_(-1, classes, -torch.inf)
            found.append((values, classes, others.logsumexp(-1) * temperature))
        values, classes, rest = (torch.cat(parts) for parts in zip(*found, strict=True))
        place = logits.shape[:-1]
        return cls(
            values.to(logits.dtype).view(*place, k),
            classes.view(*place, k),
            rest.to(logits.dtype).view(place),
            logits.shape[-1],
            temperature,
        )


def categorical(
    student: Tensor, teacher: Tensor | Largest, temperature: float, keep: Tensor | None = None
) -> Tensor:
    """Return the sum over rows of T^2 KL(softmax(teacher / T) || softmax(student / T)).

    Only the student receives a gradient. A second backward pass through the result raises `RuntimeError`,
    except in float64. If only the teacher's largest logits are known, all other classes count as one, whose
    probability is their sum, in student and teacher.

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
    chosen = None if keep is None else _chosen_rows(keep)
    divide: _Divergence = _divergence
    if isinstance(teacher, Largest):
        if teacher.temperature != temperature:
            raise ValueError(
                f"the mass of the other classes is known at temperature {teacher.temperature}, got "
                f"{temperature}; compute the largest logits again"
            )
        divide, known = _divergence_of_largest, [teacher.values, teacher.classes, teacher.rest[..., None]]
    else:
        known = [teacher]
    rows = [values.reshape(-1, values.shape[-1]) for values in (student, *known)]
    return _Categorical.apply(rows[0], temperature, chosen, divide, *rows[1:])


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


# From rows of the student's logits, T, memory for the slope or None, and what is known of the teacher's
# logits: the sum of KL, and T times the difference of the student's and the teacher's probabilities, which
# is the slope.
_Divergence = Callable[..., tuple[Tensor, Tensor]]


class _Context(Protocol):
    """The parts of autograd's context that are used here; its stub lacks them."""

    needs_input_grad: tuple[bool, ...]
    gradient: Tensor | None


class _Categorical(torch.autograd.Function):
    """Computes blocks of rows and keeps only the gradient, which `backward` scales in place."""

    @staticmethod
    def forward(
        ctx: _Context,
        student: Tensor,
        temperature: float,
        chosen: Tensor | None,
        divide: _Divergence,
        *teacher: Tensor,
    ) -> Tensor:
        gradient = _empty_gradient(student, chosen) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=_precision(student), device=student.device)
        for rows in _blocks(student, chosen):
            # A slice is a view, so the slope can be computed in the memory of the gradient, without a copy.
            in_place = gradient is not None and isinstance(rows, slice) and gradient.dtype == total.dtype
            space = gradient[rows] if gradient is not None and in_place else None
            known = (values[rows] for values in teacher)
            divergence, slope = divide(student[rows], temperature, space, *known)
            total += divergence
            if gradient is not None and space is None:
                gradient[rows] = slope.to(gradient.dtype)
        ctx.gradient = gradient
        return total * temperature**2

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, upstream: Tensor) -> tuple[Tensor | None, ...]:
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
        return scaled, *[None] * (len(ctx.needs_input_grad) - 1)


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


def _divergence(
    student: Tensor, temperature: float, space: Tensor | None, teacher: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the sum of KL over rows of logits, and T (softmax(student / T) - softmax(teacher / T)).

    With Z the sum of a row's exponentials, KL = sum(exp(t) (t - s)) / Z_t + log Z_s - log Z_t, which takes
    one exponential per element.
    """
    student, teacher = (_shifted(logits, temperature) for logits in (student, teacher))
    weight, student_weight = teacher.exp(), torch.exp(student, out=space)
    normalizer, student_normalizer = weight.sum(-1, keepdim=True), student_weight.sum(-1, keepdim=True)
    # For a teacher's logit of -inf the product is NaN; its limit is 0.
    gap = teacher.sub_(student).mul_(weight).nansum(-1, keepdim=True)
    divergence = (gap / normalizer + student_normalizer.log() - normalizer.log()).sum()
    slope = student_weight.div_(student_normalizer).sub_(weight.div_(normalizer))
    return divergence, slope.mul_(temperature)


def _divergence_of_largest(
    student: Tensor,
    temperature: float,
    space: Tensor | None,
    values: Tensor,
    classes: Tensor,
    rest: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the same over the largest classes and the others as one.

    The slope of the others is shared out by the student's own probabilities among them.
    """
    scaled = torch.mul(student.to(_precision(student)), 1 / temperature, out=space)
    known = scaled.gather(-1, classes)
    scaled.scatter_(-1, classes, -torch.inf)
    # Relative to their own largest, since the exponentials of all others may underflow.
    limits = torch.finfo(scaled.dtype)
    highest = scaled.amax(-1, keepdim=True).clamp_(min=limits.min)
    shares = scaled.sub_(highest).exp_()
    total = shares.sum(-1, keepdim=True).clamp_(min=limits.tiny)
    ours = torch.cat([known, highest + total.log()], -1).log_softmax(-1)
    theirs = torch.cat([values, rest], -1).to(ours.dtype).div_(temperature).log_softmax(-1)
    weight = theirs.exp()
    # A teacher's logit of -inf makes NaN of a product whose limit is 0; any other NaN has to show.
    divergence = theirs.sub_(ours).mul_(weight).masked_fill_(weight == 0, 0).sum()
    slope = ours.exp().sub_(weight).mul_(temperature)
    return divergence, shares.mul_(slope[:, -1:] / total).scatter_(-1, classes, slope[:, :-1])
