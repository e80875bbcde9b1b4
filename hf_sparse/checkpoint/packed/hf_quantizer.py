"""The packed format as a quantizer of transformers, so that `from_pretrained` loads packed directories.

The hooks it needs came with transformers 5.23; on earlier versions the quantizer is not registered, and
`load_packed` does the same. Without hf_sparse, `from_pretrained` finds no weights in such a directory.
This module is imported while transformers is, so what needs models is imported inside functions.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hf_sparse.checkpoint.packed.packed_file import METHOD, PACKED, SUFFIX, read_packed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.core_model_loading import WeightConverter, WeightTransform

    from hf_sparse.checkpoint.packed.packed_file import Entry

# The methods that the quantizer overrides.
HOOKS = (
    "update_attn_implementation",
    "preprocess_model",
    "update_weight_conversions",
    "postprocess_model",
    "remove_quantization_config",
)
SUPPORTED = all(hasattr(HfQuantizer, hook) for hook in HOOKS)


class PackedConfig(QuantizationConfigMixin):
    """The `quantization_config` of a packed directory; the file itself says how layers are quantized.

    With `dequantize` the model is a plain one with the rounded weights.
    """

    def __init__(self, dequantize: bool = False, **_: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]  # an enumeration of the formats of others
        self.dequantize = dequantize


class PackedQuantizer(HfQuantizer):
    """Unpacks the file before weights are loaded, and quantizes layers again afterwards.

    The result is an ordinary model: its parameters have the names and dtypes of the model that was packed,
    and it can be trained, saved and resumed.
    """

    quantization_config: PackedConfig

    def update_attn_implementation(self, config: "PreTrainedConfig") -> "PreTrainedConfig":
        """Set the name of the weight file; this hook is the first that gets the configuration."""
        config.transformers_weights = PACKED
        return config

    def preprocess_model(self, model: "PreTrainedModel", dtype: Any = None, **kwargs: Any) -> None:
        """Unpack the tensors of the model; raise `ValueError` if the file is damaged."""
        self.tensors, self.layers = unpack_for(model, kwargs["checkpoint_files"][0])

    def update_weight_conversions(
        self, weight_conversions: list["WeightTransform"], model: "PreTrainedModel"
    ) -> list["WeightTransform"]:
        """Return a conversion from bytes to unpacked tensors; keys are those of the model already."""
        return [_converter(self)]

    def postprocess_model(self, model: "PreTrainedModel", **_: Any) -> None:
        """Quantize the layers again; remove traces of loading, or saving would convert the model back."""
        from hf_sparse.checkpoint.packed.entries import quantize_again

        model._weight_conversions = None  # type: ignore[assignment]  # declared nowhere
        del model.config.transformers_weights
        if not self.quantization_config.dequantize:
            quantize_again(model, self.layers)
        self.tensors = {}
        self.remove_quantization_config(model)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


def _converter(quantizer: PackedQuantizer) -> "WeightConverter":
    """Return the conversion that replaces the bytes of each entry by its unpacked tensor."""
    from transformers.core_model_loading import ConversionOps, WeightConverter

    class Unpacked(ConversionOps):
        def __init__(self) -> None:
            # transformers looks for this attribute: with it, the bytes are not cast.
            self.hf_quantizer = quantizer

        def __deepcopy__(self, memo: dict[int, Any]) -> "Unpacked":
            """Share the tensors: transformers copies a converter for every key."""
            return self

        def convert(self, input_dict: dict[str, Any], *patterns: Any, **kwargs: Any) -> dict[str, Any]:
            name, model = kwargs["full_layer_name"], kwargs["model"]
            (held,) = input_dict.values()
            planned = model.get_parameter_or_buffer(name)
            return {name: quantizer.tensors[name].to(held[0].device, planned.dtype)}

    return WeightConverter([SUFFIX.replace(".", r"\.") + "$"], [""], [Unpacked()])


def unpack_for(model: "PreTrainedModel", file: str | Path) -> tuple[dict[str, "Tensor"], dict[str, "Entry"]]:
    """Return the tensors of a packed file, and its quantized entries, by their names in a model.

    The model may have another head. Raises as `load_packed` does.
    """
    from hf_sparse.checkpoint.packed.entries import quantized_entries
    from hf_sparse.checkpoint.packed.model import restored
    from hf_sparse.checkpoint.packed.validation import compare_layers, compare_names, compare_tensor

    path, planned = Path(file), model.state_dict()
    prefix = f"{model.base_model_prefix}."
    pairs, left_over = {}, []
    for entry, content in read_packed(path):
        name = entry.name
        for candidate in (name, name.removeprefix(prefix), prefix + name):
            if candidate in planned:
                pairs[candidate] = entry, content
                break
        else:
            left_over.append(name)
    compare_names(pairs, left_over, model, path)
    entries = {name: entry for name, (entry, _) in pairs.items()}
    for name, entry in entries.items():
        compare_tensor(name, entry, planned[name], path)
    compare_layers(entries, model, path)
    return restored(pairs, path), quantized_entries(entries)


if SUPPORTED:
    register_quantization_config(METHOD)(PackedConfig)
    register_quantizer(METHOD)(PackedQuantizer)
