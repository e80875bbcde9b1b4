"""The base class of modules that the kernels compute, and the Linear among them."""

import copy
import math
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn

from hf_sparse.runtime.autotune import PackedLayer
from hf_sparse.runtime.bindings import Grid, Kernels, load_kernels, pointer, require_memory


class KernelModule(nn.Module):
    """A module whose weights are packed for the kernels of one path; it cannot be trained or saved.

    It copies and pickles like others: the attributes named in `_bound` hold addresses, so they are left out
    and `_bind` sets them again.
    """

    _bound: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The path whose kernels the weights are packed for."""
        raise NotImplementedError

    def _bind(self, kernels: Kernels) -> None:
        """Set the attributes named in `_bound`."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._bound}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind(_kernels_of(self.path))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def _save_to_state_dict(self, *_: Any) -> None:
        refuse_saving()

    def _load_from_state_dict(self, *_: Any) -> None:
        raise ValueError("a model that was made ready to run takes no weights; load them before that")


class RuntimeLinear(KernelModule):
    """Stands in for a Linear: (..., in) to (..., out), the input rounded to 8 bits.

    It runs on the CPU, on `torch.get_num_threads()` threads. Around the sums of integers it computes in
    float32; outputs have the dtype and the device of the inputs. Calls with a few tokens, as in generation,
    read a second copy of the weight if `layer` has one, and give the same outputs.
    """

    _bound = ("_matrix", "_rows", "_grid", "_few", "_linear", "_linear_few", "_structures")

    def __init__(self, kernels: Kernels, layer: PackedLayer) -> None:
        super().__init__()
        self.packed, self.grid, self.sparsity, self.few = layer.weight, layer.grid, layer.sparsity, layer.few
        self.in_features, self.out_features = self.packed.columns, self.packed.rows
        # Some models look at its shape and dtype before they call the layer.
        self.weight = torch.empty(self.out_features, self.in_features, device="meta")
        self.bias = None
        self._bind(kernels)

    @property
    def path(self) -> str:
        return self.packed.path

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight, of both copies if it has two."""
        return self.packed.nbytes + (0 if self.few is None else self.few.nbytes)

    def _bind(self, kernels: Kernels) -> None:
        matrix, grid = self.packed.matrix(), Grid(*self.grid)
        rows = None if self.few is None else self.few.structure()
        self._structures = matrix, grid, rows
        self._matrix, self._grid = pointer(matrix), pointer(grid)
        self._rows = None if rows is None else pointer(rows)
        self._few = -1 if rows is None else kernels.few
        self._linear, self._linear_few = (
            kernels.library.hf_sparse_linear,
            kernels.library.hf_sparse_linear_few,
        )

    @torch.compiler.disable
    def forward(self, inputs: Tensor) -> Tensor:
        refuse_gradient(inputs)
        *lead, features = inputs.shape
        if features != self.in_features or not inputs.is_floating_point():
            raise ValueError(
                f"this layer reads floats of {self.in_features} features, not {inputs.dtype} of shape "
                f"{tuple(inputs.shape)}"
            )
        values = inputs.to("cpu", torch.float32).contiguous()
        outputs = values.new_empty((*lead, self.out_features))
        tokens = math.prod(lead)
        few = tokens <= self._few
        result = (self._linear_few if few else self._linear)(
            self._rows if few else self._matrix,
            self._grid,
            values.data_ptr(),
            tokens,
            outputs.data_ptr(),
            torch.get_num_threads(),
        )
        require_memory(result)
        return outputs.to(inputs)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"sparsity={self.sparsity:.3f}, form={self.packed.form}, path={self.path}"
        )


def refuse_saving(*_: Any, **__: Any) -> NoReturn:
    """Raise `ValueError`; stands in for `save_pretrained`, which would first write a configuration."""
    raise ValueError(
        "a model that was made ready to run lacks the weights to save; save it before, and call optimize "
        "or fuse on what was loaded"
    )


def forbid_saving(model: nn.Module) -> None:
    """Let `model.save_pretrained` raise `ValueError`."""
    vars(model)["save_pretrained"] = refuse_saving


def refuse_gradient(value: Tensor) -> None:
    """Raise `ValueError` for an input that needs a gradient, which the kernels do not compute."""
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "a model that was made ready to run computes no gradients; call it under torch.no_grad, and "
            "train the model that it was made from"
        )


def _kernels_of(path: str) -> Kernels:
    """Return the kernels of a path; raise `ValueError` unless they are those in use here."""
    kernels = load_kernels()
    if kernels is None or kernels.path != path:
        raise ValueError(
            f"this model was made ready for the path {path}, and here runs "
            f"{kernels.path if kernels else 'none'}; pickle the model before optimize or fuse"
        )
    return kernels
