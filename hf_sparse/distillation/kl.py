"""Temperature-scaled Kullback-Leibler divergence that stays lean for large vocabularies."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Blocks of rows fit a core's cache on a CPU; an accelerator wants fewer, larger kernels.
_ELEMENTS_AT_ONCE = {"cpu": 2**17}
_ELEMENTS_AT_ONCE_ELSEWHERE = 2**24


def categorical(student: Tensor, teacher: Tensor, temperature: float, keep: Tensor | None = None) -> Tensor:
    """Sum T^2 KL(softmax(teacher / T) || softmax(student / T)) over the rows.

    Both logits: (..., classes) of one shape. `keep`: boolean (...), rows where it is false count nothing,
    whatever their logits are. The result is a float32 scalar, also under autocast, or float64 for float64
    logits. Only the student receives a gradient; a second backward pass over it raises `RuntimeError`, except
    in float64.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, got {temperature}; 1 leaves the logits as they are")
    ours, theirs = (logits.reshape(-1, logits.shape[-1]) for logits in (student, teacher))
    return _Categorical.apply(ours, theirs, temperature, None if keep is None else _chosen_rows(keep))


def bernoulli(student: Tensor, teacher: Tensor, temperature: float, keep: Tensor | None = None) -> Tensor:
    """Sum T^2 KL over independent yes/no logits, whose probability is sigmoid(logit / T).

    Both logits: (...) of one shape, `keep` likewise; otherwise as `categorical`.
    """
    return categorical(_against_zero(student), _against_zero(teacher), temperature, keep)


def _against_zero(logits: Tensor) -> Tensor:
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)


def _chosen_rows(keep: Tensor) -> Tensor | None:
    chosen = keep.reshape(-1).nonzero().squeeze(1)
    return None if len(chosen) == keep.numel() else chosen


class _Categorical(torch.autograd.Function):
    """Works through blocks of rows, keeping nothing but the gradient, which backward scales in place."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, student: Tensor, teacher: Tensor, temperature: float, chosen: Tensor | None
    ) -> Tensor:
        gradient = _empty_gradient(student, chosen) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=_precision(student), device=student.device)
        for rows in _blocks(student, chosen):
            ours, theirs = (_shifted(logits[rows], temperature) for logits in (student, teacher))
            divergence, slope = _divergence(ours, theirs)
            total += divergence
            if gradient is not None:
                gradient[rows] = slope.mul_(temperature).to(gradient.dtype)
        ctx.gradient = gradient
        return total * temperature**2

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        if upstream.dtype == torch.float64:
            # Numerical checks of gradients use float64, and walk the same graph several times.
            return ctx.gradient * upstream, None, None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError(
                "the distillation loss gives its gradient away in the first backward pass; "
                "compute the loss again instead of using retain_graph=True"
            )
        return gradient.mul_(upstream), None, None, None


def _empty_gradient(student: Tensor, chosen: Tensor | None) -> Tensor:
    # float16 would flush small gradients to zero before the upstream loss scale can lift them.
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
    """Divide by the temperature with the maximum of every row moved to 0, into a new tensor."""
    logits = logits.to(_precision(logits))
    return torch.add(logits.amax(-1, keepdim=True) / -temperature, logits, alpha=1 / temperature)


def _divergence(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Sum KL over the rows of two shifted logits; also return softmax(student) - softmax(teacher).

    With Z the sum of a row's exponentials, KL = sum(exp(t) (t - s)) / Z_t + log Z_s - log Z_t. That is one
    exponential for each element. Overwrites its arguments.
    """
    weight, student_weight = teacher.exp(), student.exp()
    normaliser, student_normaliser = weight.sum(-1, keepdim=True), student_weight.sum(-1, keepdim=True)
    # Where the teacher's logit is -inf the product is not a number, but its limit is 0.
    gap = teacher.sub_(student).mul_(weight).nansum(-1, keepdim=True)
    divergence = (gap / normaliser + student_normaliser.log() - normaliser.log()).sum()
    return divergence, student_weight.div_(student_normaliser).sub_(weight.div_(normaliser))
