"""The packed format as a quantizer of transformers, so that `from_pretrained` loads packed directories.

The hooks it needs came with transformers 5.23; on earlier ones nothing is registered, and `load_packed` does
the same. Without hf_sparse, `from_pretrained` refuses such a directory, which holds no weights it knows.
Imported while transformers itself is being imported, so all else is imported in the functions.
"""

from typing import TYPE_CHECKING, Any

from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hf_sparse.checkpoint.container import METHOD

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.core_model_loading import WeightTransform

# What the class below overrides.
HOOKS = (
    "update_attn_implementation",
    "preprocess_model",
    "update_weight_conversions",
    "postprocess_model",
    "remove_quantization_config",
)
SUPPORTED = all(hasattr(HfQuantizer, hook) for hook in HOOKS)


class PackedConfig(QuantizationConfigMixin):
    """The `quantization_config` of a packed directory; how things are quantized stands in the file."""

    def __init__(self, **_: Any) -> None:
        self.quant_method = METHOD


class PackedQuantizer(HfQuantizer):
    """Unpacks the file before weights are loaded, and quantizes layers again afterwards.

    The loaded model is one like any other to transformers: its parameters have the names and dtypes of the
    model that was packed, it can be trained, saved and resumed.
    """

    def update_attn_implementation(self, config: "PreTrainedConfig") -> "PreTrainedConfig":
        """Name the file to look for; the first hook that sees the configuration."""
        from hf_sparse.checkpoint.container import PACKED

        config.transformers_weights = PACKED
        return config

    def preprocess_model(
        self, model: "PreTrainedModel", checkpoint_files: list[str] | None = None, **_: Any
    ) -> None:
        """Unpack the tensors of the model; raise `ValueError` if the file is damaged."""
        from hf_sparse.checkpoint.packed import unpack_for

        self.tensors, self.layers = unpack_for(model, checkpoint_files[0])

    def update_weight_conversions(
        self, weight_conversions: list["WeightTransform"], model: "PreTrainedModel"
    ) -> list["WeightTransform"]:
        """Replace the renaming of keys, which are those of the model already, by what was unpacked."""
        from hf_sparse.checkpoint.unpacking import unpacked_converter

        return [unpacked_converter(self)]

    def postprocess_model(self, model: "PreTrainedModel", **_: Any) -> None:
        """Quantize what was quantized; leave no trace of loading, or saving would convert it back."""
        from hf_sparse.checkpoint.packed import quantize_again

        model._weight_conversions = None
        del model.config.transformers_weights
        quantize_again(model, self.layers)
        self.tensors = {}
        self.remove_quantization_config(model)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


if SUPPORTED:
    register_quantization_config(METHOD)(PackedConfig)
    register_quantizer(METHOD)(PackedQuantizer)
