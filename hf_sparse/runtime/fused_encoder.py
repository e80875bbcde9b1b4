"""Runs all layers of an encoder in one call of the kernels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from hf_sparse.runtime.bindings import LINEARS, NORMS, Encoder, Grid, Kernels, Layer, pointer, require_memory
from hf_sparse.runtime.encoders.places import PlaceTables, RelationTables
from hf_sparse.runtime.linear import KernelModule, refuse_gradient
from hf_sparse.runtime.weight_forms import PackedWeight

# A mask that adds this or less to a score leaves its token out.
_LEFT_OUT = -1e4


@dataclass(frozen=True, eq=False)
class FusedLayer:
    """One layer: six packed weights, or seven with a gate, the grids of their inputs, and its norms.

    Attributes:
        packed: The weights in the order of LINEARS.
        grids: The grids of their inputs.
        norms: Weight and bias of the two norms; None for those of a norm that is left out.
        rotation: Which rotary embedding turns queries and keys, or -1.
        window: The largest distance that a token sees, or -1.
        relations: What relative positions are multiplied with, or None.
    """

    packed: tuple[PackedWeight, ...]
    grids: tuple[tuple[float, float, int], ...]
    norms: tuple[Tensor | None, ...]
    rotation: int = -1
    window: int = -1
    relations: RelationTables | None = None

    def structure(self) -> Layer:
        """Return the structure that the kernels read; the tensors must outlive it."""
        layer = Layer(rotation=self.rotation, window=self.window)
        if self.relations is not None:
            layer.relations = self.relations.structure()
        names = LINEARS if len(self.packed) == len(LINEARS) else (*LINEARS[:-2], LINEARS[-1])
        for name, packed, grid in zip(names, self.packed, self.grids, strict=True):
            setattr(layer, name, packed.matrix())
            setattr(layer, f"{name}_grid", Grid(*grid))
        for name, norm in zip(NORMS, self.norms, strict=True):
            setattr(layer, name, None if norm is None else norm.data_ptr())
        return layer


@dataclass(frozen=True)
class EncoderSettings:
    """What all layers of an encoder share.

    Attributes:
        heads: The number of heads.
        activation: The number of the activation in ACTIVATIONS.
        epsilon: That of all norms.
        key_heads: The number of heads of keys and values; None stands for `heads`.
        norms_first: Whether norms stand before the attention and the feed-forward layer.
        centered: Whether norms subtract the mean, as LayerNorm does and RMSNorm does not.
        scaling: What scores are multiplied with; None stands for one over the root of a head's width.
        bare: Whether the encoder returns a tensor, as a layer does, not an output with fields.
        listed: Whether the model takes the last hidden states from the list of all.
    """

    heads: int
    activation: int
    epsilon: float
    key_heads: int | None = None
    norms_first: bool = False
    centered: bool = True
    scaling: float | None = None
    bare: bool = False
    listed: bool = False


class FusedEncoder(KernelModule):
    """Stands in for the encoder of a model: hidden states (batch, length, hidden) to the last ones.

    Tokens that the attention mask leaves out are skipped, and their outputs are zeros. It runs on the CPU in
    float32 and 8 bits, on `torch.get_num_threads()` threads. `entrance` is a module before the first layer,
    with the name that it has.
    """

    _bound = ("_kernels", "_structures", "_encoder")

    # Models ask each of their layers which of several masks it reads.
    attention_type = "full_attention"

    def __init__(
        self,
        kernels: Kernels,
        layers: Sequence[FusedLayer],
        settings: EncoderSettings,
        tables: PlaceTables | None = None,
        entrance: tuple[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.layers, self.settings = tuple(layers), settings
        self.tables = tables or PlaceTables()
        self.hidden, self.inner = layers[0].packed[0].columns, layers[0].packed[4].rows
        self.entrance = None if entrance is None else entrance[0]
        if entrance is not None:
            self.add_module(*entrance)
        self._bind(kernels)

    @property
    def path(self) -> str:
        return self.layers[0].packed[0].path

    def _bind(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._structures = (Layer * len(self.layers))(*(layer.structure() for layer in self.layers))
        settings = self.settings
        self._encoder = Encoder(
            self.hidden,
            self.inner,
            settings.heads,
            settings.key_heads or settings.heads,
            settings.activation,
            settings.norms_first,
            settings.centered,
            len(self.layers),
            self._structures,
            settings.epsilon,
            settings.scaling or (self.hidden // settings.heads) ** -0.5,
            self.tables.structure(),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights, the norms and the tables; of layers that are used again, once."""
        return self.tables.nbytes + sum(
            sum(packed.nbytes for packed in layer.packed)
            + sum(norm.nbytes for norm in layer.norms if norm is not None)
            + (layer.relations.nbytes if layer.relations is not None else 0)
            for layer in dict.fromkeys(self.layers)
        )

    @torch.compiler.disable
    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        **_unused: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions | Tensor:
        if self.entrance is not None:
            hidden_states = self.get_submodule(self.entrance)(hidden_states)
        refuse_gradient(hidden_states)
        if hidden_states.dim() != 3 or hidden_states.shape[-1] != self.hidden:
            raise ValueError(
                f"this encoder reads (batch, length, {self.hidden}), not {tuple(hidden_states.shape)}"
            )
        batch, length, _ = hidden_states.shape
        inputs = hidden_states.to("cpu", torch.float32).contiguous()
        kept = kept_tokens(attention_mask, batch, length)
        positions = self.tables.positions(position_embeddings, batch, length)
        outputs = torch.empty_like(inputs)
        result = self._kernels.library.hf_sparse_encode(
            pointer(self._encoder),
            inputs.data_ptr(),
            None if kept is None else kept.data_ptr(),
            None if positions is None else positions.data_ptr(),
            batch,
            length,
            outputs.data_ptr(),
            torch.get_num_threads(),
        )
        require_memory(result)
        outputs = outputs.to(hidden_states)
        if self.settings.bare:
            return outputs
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=outputs, hidden_states=(outputs,) if self.settings.listed else None
        )

    def extra_repr(self) -> str:
        return (
            f"{len(self.layers)} layers, hidden={self.hidden}, inner={self.inner}, "
            f"heads={self.settings.heads}, path={self.path}"
        )


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


def norm_vectors(norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Return weight and bias of a norm, as float32 on the CPU; None for both if it is the identity."""
    if isinstance(norm, nn.Identity):
        return None, None
    weight = norm.get_parameter("weight").detach().to("cpu", torch.float32).contiguous()
    bias = getattr(norm, "bias", None)
    return weight, torch.zeros_like(weight) if bias is None else bias.detach().to(weight).contiguous()
