"""Weights of 8 bits as the kernels read them: the codes that are not zero, in one of several forms."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_sparse.runtime.bindings import Kernels, Matrix, Rows
from hf_sparse.runtime.integer_layer import IntegerLayer

# Indices have 16 bits, and sums of products of codes 32.
_MOST_INPUTS = 1 << 16
# kernels/product.h reads so many indices ahead of the last one.
_AHEAD = 8
# Rows of a stripe.
ROWS = 4
# Of kernels/few_tokens.h: the columns that a word of `kept` describes, the rows that are restored at a time.
BLOCK, _TOGETHER = 64, 16
# Above this share of codes that are not zero, all are stored: the bits that tell them apart take room, too.
_DENSE = 0.85
# The same where the processor goes through these bits one by one.
_DENSE_ONE_BY_ONE = 0.3


@dataclass(frozen=True, order=True)
class Form:
    """The block of weights that an entry holds: `tall` rows of `wide` adjacent columns, or of one column.

    `tall` is 4 or 1. `wide` is one or two groups of features; 0 stands for one column, wherever it is.
    """

    tall: int
    wide: int

    def __str__(self) -> str:
        return f"{self.tall}x{self.wide}" if self.wide else f"{self.tall}x1"


def forms(group: int) -> tuple[Form, ...]:
    """Return the forms of kernels whose words hold `group` features, those with the largest blocks first."""
    wide = sorted({group, 4}, reverse=True)
    return tuple(Form(tall, width) for tall in (4, 1) for width in (*wide, 0))


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight (rows, columns) in a form; `Matrix` points to the tensors.

    `multipliers`, float32, are steps between weights, times the step of the input where that is fixed.
    """

    path: str
    rows: int
    columns: int
    form: Form
    group: int
    starts: Tensor
    indices: Tensor
    words: Tensor
    multipliers: Tensor
    biases: Tensor
    row_sums: Tensor

    @property
    def entries(self) -> int:
        """The number of entries that the kernels go through."""
        return int(self.starts[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.nbytes for tensor in self._tensors())

    def matrix(self) -> Matrix:
        """Return the structure that points to the tensors, which must outlive it."""
        return Matrix(
            self.rows,
            self.columns,
            self.form.tall,
            _steps(self.form, self.group),
            not self.form.wide,
            *(tensor.data_ptr() for tensor in self._tensors()),
        )

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.starts, self.indices, self.words, self.multipliers, self.biases, self.row_sums


def count_entries(kernels: Kernels, codes: Tensor, form: Form) -> tuple[int, Tensor]:
    """Return the number of entries of int8 codes (out, in) in a form, and where those of each row begin."""
    rows, columns = codes.shape
    starts = torch.zeros(_rounded_up(rows) // form.tall + 1, dtype=torch.int32, device="cpu")
    total = kernels.library.hf_sparse_count_entries(
        codes.data_ptr(), rows, columns, *_sizes(form, kernels.group), starts.data_ptr()
    )
    return total, starts


def pack(
    kernels: Kernels, codes: Tensor, multipliers: Tensor, bias: Tensor | None, form: Form
) -> PackedWeight:
    """Pack int8 codes (out, in) with float32 multipliers, (out,) or (1,), and an optional bias (out,).

    Raises `ValueError` as `require_codes` does, and for multipliers or a bias that are not finite.
    """
    require_codes(codes)
    for what, numbers in (("steps", multipliers), ("bias", bias)):
        if numbers is not None and not torch.isfinite(numbers).all():
            raise ValueError(f"the {what} of a layer are not finite: take an earlier checkpoint")
    codes = codes.contiguous()
    rows, columns = codes.shape
    total, starts = count_entries(kernels, codes, form)
    each = (ROWS if form.tall == ROWS else 1) * _steps(form, kernels.group)
    indices = torch.zeros(
        total * (1 if form.wide else kernels.group) + _AHEAD, dtype=torch.int16, device="cpu"
    )
    words = torch.zeros(total * each, dtype=torch.int32, device="cpu")
    kernels.library.hf_sparse_fill_entries(
        codes.data_ptr(),
        rows,
        columns,
        *_sizes(form, kernels.group),
        starts.data_ptr(),
        indices.data_ptr(),
        words.data_ptr(),
    )
    row_sums = torch.zeros(_rounded_up(rows), dtype=torch.int32, device="cpu")
    kernels.library.hf_sparse_sum_rows(codes.data_ptr(), rows, columns, row_sums.data_ptr())
    return PackedWeight(
        kernels.path,
        rows,
        columns,
        form,
        kernels.group,
        starts,
        indices,
        words,
        _padded(multipliers.reshape(-1).expand(rows), torch.float32),
        _padded(torch.zeros(rows, device="cpu") if bias is None else bias.detach(), torch.float32),
        row_sums,
    )


def require_codes(codes: Tensor) -> None:
    """Raise `ValueError` unless these are int8 codes (out, in) with no more inputs than the kernels take."""
    if codes.dtype != torch.int8 or codes.dim() != 2 or not codes.numel():
        raise ValueError(
            f"codes are int8 in two dimensions, not {codes.dtype} of shape {tuple(codes.shape)}; take those "
            "of quantized_layers"
        )
    if codes.shape[1] > _MOST_INPUTS:
        raise ValueError(f"a weight has {codes.shape[1]} inputs, and the kernels take {_MOST_INPUTS} at most")


def _steps(form: Form, group: int) -> int:
    return max(form.wide // group, 1)


def _sizes(form: Form, group: int) -> tuple[int, int, int]:
    return form.tall, _steps(form, group), int(not form.wide)


def _rounded_up(rows: int) -> int:
    return -(-rows // ROWS) * ROWS


def _padded(values: Tensor, dtype: torch.dtype) -> Tensor:
    padded = torch.zeros(_rounded_up(len(values)), dtype=dtype, device="cpu")
    padded[: len(values)] = values
    return padded


@dataclass(frozen=True, eq=False)
class RowWeight:
    """A weight (rows, columns); `Rows` points to the tensors.

    `kept` holds a bit for each column, 64 to a number and the first the lowest, that says whether `codes`
    has the code of that column; it is None if `codes` has all. `starts` says where the codes of a row begin.
    """

    rows: int
    columns: int
    kept: Tensor | None
    codes: Tensor
    starts: Tensor
    multipliers: Tensor
    biases: Tensor
    row_sums: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        held = (self.codes, self.starts, self.multipliers, self.biases, self.row_sums)
        return sum(tensor.nbytes for tensor in held) + (0 if self.kept is None else self.kept.nbytes)

    def structure(self) -> Rows:
        """Return the structure that points to the tensors, which must outlive it."""
        return Rows(
            self.rows,
            self.columns,
            None if self.kept is None else self.kept.data_ptr(),
            *(held.data_ptr() for held in (self.codes, self.starts)),
            *(held.data_ptr() for held in (self.multipliers, self.biases, self.row_sums)),
        )


def pack_rows(kernels: Kernels, layer: IntegerLayer) -> RowWeight:
    """Pack the codes of a layer row by row."""
    rows, columns = layer.codes.shape
    codes = pad(layer.codes, (0, -columns % BLOCK))
    there = codes != 0
    share = int(there.sum()) / layer.codes.numel()
    if share > (_DENSE if kernels.library.hf_sparse_spreads_bytes() else _DENSE_ONE_BY_ONE):
        kept, stored = None, codes.reshape(-1)
        starts = torch.arange(rows, dtype=torch.int64, device="cpu") * codes.shape[1]
    else:
        # One bit for each column, the first of a number the lowest.
        bits = torch.tensor([1 << place for place in range(8)], dtype=torch.uint8, device="cpu")
        bytes_ = (there.view(rows, -1, 8) * bits).sum(-1, dtype=torch.uint8)
        kept, stored = bytes_.contiguous().view(torch.int64), codes[there]
        counts = there.sum(1)
        starts = counts.cumsum(0) - counts
    bias = torch.zeros(rows, device="cpu") if layer.bias is None else layer.bias.detach()
    return RowWeight(
        rows,
        columns,
        kept,
        # The kernels read whole blocks.
        pad(stored, (0, BLOCK)).contiguous(),
        starts.contiguous(),
        _whole(layer.multipliers.reshape(-1).expand(rows), torch.float32),
        _whole(bias, torch.float32),
        _whole(layer.codes.sum(1, dtype=torch.int32), torch.int32),
    )


def _whole(values: Tensor, dtype: torch.dtype) -> Tensor:
    return pad(values.to("cpu", dtype), (0, -len(values) % _TOGETHER)).contiguous()
