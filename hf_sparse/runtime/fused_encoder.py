"""Runs all layers of a BERT-like encoder in one call of the kernels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from hf_sparse.runtime.bindings import LINEARS, NORMS, Encoder, Grid, Kernels, Layer, pointer, require_memory
from hf_sparse.runtime.linear import KernelModule, refuse_gradient
from hf_sparse.runtime.weight_forms import PackedWeight

# A mask that adds this or less to a score leaves its token out.
_LEFT_OUT = -1e4


@dataclass(frozen=True, eq=False)
class FusedLayer:
    """One layer: six packed weights, the grids of their inputs, and the four vectors of two LayerNorms."""

    packed: tuple[PackedWeight, ...]
    grids: tuple[tuple[float, float, int], ...]
    norms: tuple[Tensor, ...]

    def structure(self) -> Layer:
        """Return the structure that the kernels read; the tensors must outlive it."""
        layer = Layer()
        for name, packed, grid in zip(LINEARS, self.packed, self.grids, strict=True):
            setattr(layer, name, packed.matrix())
            setattr(layer, f"{name}_grid", Grid(*grid))
        for name, norm in zip(NORMS, self.norms, strict=True):
            setattr(layer, name, norm.data_ptr())
        return layer


class FusedEncoder(KernelModule):
    """Stands in for the encoder of a model: hidden states (batch, length, hidden) to the last ones.

    Tokens that the attention mask leaves out are skipped, and their outputs are zeros. It runs on the CPU in
    float32 and 8 bits, on `torch.get_num_threads()` threads.
    """

    _bound = ("_kernels", "_structures", "_encoder")

    def __init__(
        self, kernels: Kernels, layers: Sequence[FusedLayer], heads: int, activation: int, epsilon: float
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.shape = (layers[0].packed[0].columns, layers[0].packed[4].rows, heads, activation, len(layers))
        self.epsilon = epsilon
        self._bind(kernels)

    @property
    def path(self) -> str:
        return self.layers[0].packed[0].path

    def _bind(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._structures = (Layer * len(self.layers))(*(layer.structure() for layer in self.layers))
        self._encoder = Encoder(*self.shape, self._structures, self.epsilon)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights and the LayerNorms."""
        return sum(
            sum(packed.nbytes for packed in layer.packed) + sum(norm.nbytes for norm in layer.norms)
            for layer in self.layers
        )

    @torch.compiler.disable
    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_unused: Any
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        refuse_gradient(hidden_states)
        hidden = self.shape[0]
        if hidden_states.dim() != 3 or hidden_states.shape[-1] != hidden:
            raise ValueError(
                f"this encoder reads (batch, length, {hidden}), not {tuple(hidden_states.shape)}"
            )
        batch, length, _ = hidden_states.shape
        inputs = hidden_states.to("cpu", torch.float32).contiguous()
        kept = kept_tokens(attention_mask, batch, length)
        outputs = torch.empty_like(inputs)
        result = self._kernels.library.hf_sparse_encode(
            pointer(self._encoder),
            inputs.data_ptr(),
            None if kept is None else kept.data_ptr(),
            batch,
            length,
            outputs.data_ptr(),
            torch.get_num_threads(),
        )
        require_memory(result)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=outputs.to(hidden_states))

    def extra_repr(self) -> str:
        hidden, inner, heads, _, count = self.shape
        return f"{count} layers, hidden={hidden}, inner={inner}, heads={heads}, path={self.path}"


def kept_tokens(attention_mask: Tensor | None, batch: int, length: int) -> Tensor | None:
    """Return the tokens that a mask keeps as (batch, length) uint8, or None if it keeps all.

    A mask is (batch, length), or (batch or 1, 1, queries, length) as models make them: booleans, or numbers
    that are added to scores. Raises `ValueError` for masks by which tokens of one sequence see different
    tokens, as in decoders.
    """
    if attention_mask is None:
        return None
    mask = attention_mask
    if not isinstance(mask, Tensor):
        raise ValueError(
            f"a fused encoder reads no mask of type {type(mask).__name__}; call "
            "model.set_attn_implementation('sdpa')"
        )
    if mask.is_floating_point() and mask.dim() == 4:
        if not ((mask == 0) | (mask <= _LEFT_OUT)).all():
            raise ValueError(
                "the mask adds numbers to scores that are neither 0 nor so small that a token is left out, "
                "which a fused encoder cannot compute; call optimize(model) instead"
            )
        mask = mask == 0
    mask = mask.bool()
    if mask.dim() == 4 and mask.shape[1] == 1 and mask.shape[-1] == length:
        rows = mask[:, 0]
        # Tokens that are kept see themselves; rows of the others do not matter.
        mask = rows.diagonal(dim1=1, dim2=2) if rows.shape[1] == length else rows[:, 0]
        if not ((rows == mask[:, None]).all(-1) | ~mask[:, : rows.shape[1]]).all():
            raise ValueError(
                "tokens of one sequence see different tokens, which a fused encoder cannot compute; call "
                "optimize(model) instead"
            )
    elif mask.dim() != 2 or mask.shape[-1] != length:
        raise ValueError(
            f"an attention mask of shape {tuple(attention_mask.shape)} does not fit {batch} x {length} tokens"
        )
    return mask.expand(batch, length).to("cpu", torch.uint8).contiguous()


def norm_vectors(*norms: nn.LayerNorm) -> tuple[Tensor, ...]:
    """Return weight and bias of each LayerNorm, as float32 on the CPU."""
    return tuple(
        vector.detach().to("cpu", torch.float32).contiguous()
        for norm in norms
        for vector in (norm.weight, norm.bias)
    )
