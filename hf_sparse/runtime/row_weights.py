"""Weights as the kernels read them for a few tokens: the codes that are not zero, row by row, as bytes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_sparse.runtime.bindings import Kernels, Rows
from hf_sparse.runtime.integer_layer import IntegerLayer

# Of kernels/few_tokens.h: the columns that a word of `kept` describes, the rows that are restored at a time.
BLOCK, _TOGETHER = 64, 16
# Above this share of codes that are not zero, all are stored: the bits that tell them apart take room, too.
_DENSE = 0.85
# The same where the processor goes through these bits one by one.
_DENSE_ONE_BY_ONE = 0.3


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
        _padded(layer.multipliers.reshape(-1).expand(rows), torch.float32),
        _padded(bias, torch.float32),
        _padded(layer.codes.sum(1, dtype=torch.int32), torch.int32),
    )


def _padded(values: Tensor, dtype: torch.dtype) -> Tensor:
    return pad(values.to("cpu", dtype), (0, -len(values) % _TOGETHER)).contiguous()
