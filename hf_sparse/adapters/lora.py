"""LoRA whose update is masked by the zeros of its base, so that merging it adds what was trained.

SparsePEFT in "SQFT: Low-cost Model Adaptation in Low-precision Sparse Foundation Models" (Muñoz, Yuan and
Jain 2024, arXiv:2410.03750): W + M * (scaling * B A), where M is 0 where W is 0.
Subclasses classes of peft, so it is imported only if peft is installed.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

try:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, LoraConfig
    from peft.tuners.lora import Linear
    from peft.tuners.lora.layer import LoraVariant
    from peft.tuners.tuners_utils import BaseTunerLayer
except ImportError as error:
    raise ImportError('adapters need peft 0.20 or later; run pip install "hf_sparse[peft]"') from error
if not hasattr(Linear, "lora_variants"):
    raise ImportError('adapters need peft 0.20 or later; run pip install -U "hf_sparse[peft]"')

# `peft_type` in adapter_config.json. Without hf_sparse, peft refuses this unknown type instead of computing
# an update without the mask. In memory these adapters are of type LORA.
PEFT_TYPE = "SPARSE_LORA"
_KEEP = "keep_zeros"
# The others initialize from the base's weight and change it, which fills its zeros.
_INITS = (True, False, "gaussian", "orthogonal", "eva")
_REFUSED = ("target_parameters", "layer_replication", "megatron_config", "use_qalora")


@dataclass
class SparseLoraConfig(LoraConfig):
    """`LoraConfig` of adapters that keep the zeros of their base, for `get_peft_model` and `add_adapter`.

    A layer computes with W + M * (scaling * B A), where M is 0 where W is 0: SparsePEFT in "SQFT" (Muñoz,
    Yuan and Jain 2024, arXiv:2410.03750). Each layer with such an adapter needs a temporary of the weight's
    shape, (out, in), from the forward to the backward pass, and a mask of one byte a weight.

    Args:
        keep_zeros: Always True; marks the configuration on disk. All other arguments are those of
            `LoraConfig`.

    Raises:
        ValueError: For arguments that do not suit a masked update: `use_dora` and other variants, initial
            values that change the base's weight, `target_parameters`.
    """

    keep_zeros: bool = field(
        default=True,
        metadata={"help": "Mask the update by the zeros of the base.", "is_lora_variant": True},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        # The documented way to give peft LoRA layers of your own.
        self._register_custom_module({nn.Linear: SparseLoraLinear, Conv1D: SparseLoraLinear})

    def _check(self) -> None:
        if not self.keep_zeros:
            raise ValueError("keep_zeros=False is an ordinary adapter; write LoraConfig for it")
        variants = [part.name for part in dataclasses.fields(self) if part.metadata.get("is_lora_variant")]
        for name in (*variants, *_REFUSED):
            if name != _KEEP and getattr(self, name, None):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} does not go together with an update that is masked by "
                    "the zeros of the base; leave it out, or write LoraConfig for an adapter that fills them"
                )
        if self.init_lora_weights not in _INITS:
            raise ValueError(
                f"init_lora_weights={self.init_lora_weights!r} takes the first values out of the base's "
                f"weight, which fills its zeros; write one of {', '.join(map(repr, _INITS))}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as it is saved, with the type that hf_sparse registers."""
        return super().to_dict() | {"peft_type": PEFT_TYPE}


class MaskedUpdate(LoraVariant):
    """A variant of peft's LoRA layers: its forward pass uses the masked update that merging would add."""

    def supports_lora_conversion(self) -> bool:
        """Return False: plain LoRA, which is not masked, computes something else."""
        return False

    @staticmethod
    def init(  # type: ignore[override]  # peft passes its keywords and the layer that chose this variant
        module: "SparseLoraLinear", adapter_name: str, **kwargs: Any
    ) -> None:
        """Make the mask from the base's weight, once, before any adapter is merged into it."""
        if not hasattr(module, "kept"):
            module.register_buffer("kept", _kept(module, kwargs.get("target_name")), persistent=False)

    @staticmethod
    def forward(  # type: ignore[override]  # called with the layer that chose this variant
        module: "SparseLoraLinear", active_adapter: str, x: Tensor, result: Tensor, **_: Any
    ) -> Tensor:
        """Return the base's output plus that of the masked update."""
        update = module.get_delta_weight(active_adapter)
        update = update.t() if module.fan_in_fan_out else update
        bias = module.lora_B[active_adapter].bias
        bias = None if bias is None else bias * module.scaling[active_adapter]
        return result + functional.linear(module.lora_dropout[active_adapter](x), update, bias)

    @staticmethod
    def merge_safe(  # type: ignore[override]  # called with the layer that chose this variant
        module: "SparseLoraLinear", active_adapter: str, orig_weight: Tensor
    ) -> Tensor:
        """Return a weight plus the masked update."""
        return (orig_weight + module.get_delta_weight(active_adapter)).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(  # type: ignore[override]  # called with the layer that chose this variant
        module: "SparseLoraLinear", active_adapter: str, orig_weight: Tensor
    ) -> None:
        """Add the masked update to a weight."""
        orig_weight.data = MaskedUpdate.merge_safe(module, active_adapter, orig_weight.data)

    @staticmethod
    def unmerge(  # type: ignore[override]  # called with the layer that chose this variant
        module: "SparseLoraLinear", active_adapter: str, orig_weight: Tensor
    ) -> Tensor:
        """Return a weight without the masked update that was added."""
        return (orig_weight.data - module.get_delta_weight(active_adapter)).to(orig_weight.dtype)


class SparseLoraLinear(Linear):
    """A Linear or `Conv1D` with adapters, masked ones and ordinary ones of a `LoraConfig`.

    `kept` is the boolean mask of the base's nonzero weights, in the shape in which the weight is stored.
    """

    kept: Tensor

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> None:
        transposed = isinstance(_innermost(base_layer), Conv1D)
        # As peft's `dispatch_default` does for the layers that it makes.
        config.fan_in_fan_out = transposed
        super().__init__(base_layer, adapter_name, config, is_target_conv_1d_layer=transposed, **kwargs)

    def resolve_lora_variant(self, *, config: LoraConfig, **kwargs: Any) -> LoraVariant | None:
        """Return the variant of an adapter by its configuration, None for plain LoRA."""
        if isinstance(config, SparseLoraConfig):
            return MaskedUpdate()
        return super().resolve_lora_variant(config=config, **kwargs)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return the update of an adapter, in the shape in which the base's weight is stored."""
        update = super().get_delta_weight(adapter)
        if not isinstance(self.lora_variant.get(adapter), MaskedUpdate):
            return update
        # Not a product: NaN * 0 is NaN.
        return torch.where(self.kept, update, 0.0)


def _innermost(layer: nn.Module) -> nn.Module:
    return layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer


def _kept(module: SparseLoraLinear, name: str | None) -> Tensor:
    weight = getattr(module.get_base_layer(), "weight", None)
    if weight is None or type(weight) is not nn.Parameter or type(weight.data) is not Tensor:
        problem = f"is kept as {type(weight).__name__}"
    elif weight.is_meta or not weight.is_floating_point():
        problem = "is not loaded" if weight.is_meta else f"holds {weight.dtype}"
    else:
        return weight.detach() != 0
    raise ValueError(
        f"the weight of {name} {problem}, so its zeros cannot be seen; load the base with plain weights (of "
        "compressed-tensors, with quantization_config=CompressedTensorsConfig(dequantize=True)), or write "
        "LoraConfig for an adapter that is not merged"
    )


# peft looks up the type as adapter_config.json spells it.
PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = SparseLoraConfig  # type: ignore[index]  # typed for its own enum
