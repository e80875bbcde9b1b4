"""A layer of any model that the kernels compute."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hf_sparse.runtime.choosing import PackedLayer
from hf_sparse.runtime.library import Grid, Kernels, load_kernels, pointer, require_memory


class RuntimeModule(nn.Module):
    """A module whose weights are packed for the kernels: there are none to train or to save."""

    def _save_to_state_dict(self, *_: Any) -> None:
        refuse_saving()

    def _load_from_state_dict(self, *_: Any) -> None:
        raise ValueError("a model that was made ready to run takes no weights; load them before that")


def refuse_saving(*_: Any, **__: Any) -> None:
    """Stand in for `save_pretrained`, which would write a configuration before it finds no weights."""
    raise ValueError(
        "a model that was made ready to run has no weights left to save; save it before, and call optimize "
        "or fuse on what was loaded"
    )


def refuse_gradient(value: Tensor) -> None:
    """Raise `ValueError` where a gradient would be asked for, which the kernels do not compute."""
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "a model that was made ready to run computes no gradients; call it under torch.no_grad, and "
            "train the model that it was made from"
        )


class RuntimeLinear(RuntimeModule):
    """What stands in for a Linear: (..., in) to (..., out), the input rounded to 8 bits.

    It runs on the CPU and computes in float32 around the sums, whatever type its input has, which its output
    has, too. As many threads take part as `torch.get_num_threads()` says.
    """

    def __init__(self, kernels: Kernels, layer: PackedLayer) -> None:
        super().__init__()
        self.packed, self.grid, self.sparsity = layer.weight, layer.grid, layer.sparsity
        self.in_features, self.out_features = self.packed.columns, self.packed.rows
        # Some models look at its shape and dtype before they call the layer.
        self.weight = torch.empty(self.out_features, self.in_features, device="meta")
        self.bias = None
        self._bind(kernels)

    def _bind(self, kernels: Kernels) -> None:
        self._matrix, self._grid, self._kernels = self.packed.matrix(), Grid(*self.grid), kernels

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for bound in ("_matrix", "_grid", "_kernels"):
            del state[bound]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind(same_kernels(self.packed.path))

    def __deepcopy__(self, memo: dict[int, Any]) -> "RuntimeLinear":
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    @torch.compiler.disable
    def forward(self, inputs: Tensor) -> Tensor:
        refuse_gradient(inputs)
        if inputs.shape[-1] != self.in_features or not inputs.is_floating_point():
            raise ValueError(
                f"this layer reads floats of {self.in_features} features, not {inputs.dtype} of shape "
                f"{tuple(inputs.shape)}"
            )
        rows = inputs.to("cpu", torch.float32).reshape(-1, self.in_features).contiguous()
        outputs = rows.new_empty(len(rows), self.out_features)
        result = self._kernels.library.hf_sparse_linear(
            pointer(self._matrix),
            pointer(self._grid),
            rows.data_ptr(),
            len(rows),
            outputs.data_ptr(),
            torch.get_num_threads(),
        )
        require_memory(result)
        return outputs.view(*inputs.shape[:-1], self.out_features).to(inputs)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"sparsity={self.sparsity:.3f}, form={self.packed.form}, path={self.packed.path}"
        )


def same_kernels(path: str) -> Kernels:
    """Return the kernels that a pickled layer was packed for; raise `ValueError` if they do not run here."""
    kernels = load_kernels()
    if kernels is None or kernels.path != path:
        raise ValueError(
            f"this model was made ready for the path {path}, and here runs "
            f"{kernels.path if kernels else 'none'}; pickle the model before optimize or fuse"
        )
    return kernels
