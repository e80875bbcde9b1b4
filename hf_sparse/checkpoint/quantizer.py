"""The packed format as a quantizer of transformers, so that `from_pretrained` loads packed directories.

The hooks it needs came with transformers 5.23; on earlier ones nothing is registered, and `load_packed` does
the same. Without hf_sparse, `from_pretrained` refuses such a directory, which holds no weights it knows.
Imported while transformers itself is being imported, so all else is imported in the functions.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hf_sparse.checkpoint.container import METHOD, PACKED, SUFFIX, read_packed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.core_model_loading import WeightTransform

    from hf_sparse.checkpoint.container import Entry

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
        self.quant_method = METHOD  # type: ignore[assignment]  # an enumeration of the formats of others


class PackedQuantizer(HfQuantizer):
    """Unpacks the file before weights are loaded, and quantizes layers again afterwards.

    The loaded model is one like any other to transformers: its parameters have the names and dtypes of the
    model that was packed, it can be trained, saved and resumed.
    """

    def update_attn_implementation(self, config: "PreTrainedConfig") -> "PreTrainedConfig":
        """Name the file to look for; the first hook that sees the configuration."""
        config.transformers_weights = PACKED
        return config

    def preprocess_model(self, model: "PreTrainedModel", dtype: Any = None, **kwargs: Any) -> None:
        """Unpack the tensors of the model; raise `ValueError` if the file is damaged."""
        self.tensors, self.layers = unpack_for(model, kwargs["checkpoint_files"][0])

    def update_weight_conversions(
        self, weight_conversions: list["WeightTransform"], model: "PreTrainedModel"
    ) -> list["WeightTransform"]:
        """Replace the renaming of keys, which are those of the model already, by what was unpacked."""
        return [WeightConverter([SUFFIX.replace(".", r"\.") + "$"], [""], [_Unpacked(self)])]

    def postprocess_model(self, model: "PreTrainedModel", **_: Any) -> None:
        """Quantize what was quantized; leave no trace of loading, or saving would convert it back."""
        from hf_sparse.checkpoint.packed import quantize_again

        model._weight_conversions = None  # type: ignore[assignment]  # declared nowhere
        del model.config.transformers_weights
        quantize_again(model, self.layers)
        self.tensors = {}
        self.remove_quantization_config(model)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


class _Unpacked(ConversionOps):
    """Answers with the tensor of a model that belongs to the bytes of an entry."""

    def __init__(self, hf_quantizer: PackedQuantizer) -> None:
        # By this name transformers recognizes that it must not cast what it read.
        self.hf_quantizer = hf_quantizer

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Unpacked":
        """Share the tensors: transformers copies a converter for every key."""
        return self

    def convert(self, input_dict: dict[str, Any], *patterns: Any, **kwargs: Any) -> dict[str, Any]:
        name, model = kwargs["full_layer_name"], kwargs["model"]
        (held,) = input_dict.values()
        planned = model.get_parameter_or_buffer(name)
        return {name: self.hf_quantizer.tensors[name].to(held[0].device, planned.dtype)}


def unpack_for(model: "PreTrainedModel", file: str | Path) -> tuple[dict[str, "Tensor"], dict[str, "Entry"]]:
    """Return what a packed file holds for a model, which may have another head, by the names in the model.

    Tensors as its weights, and the entries of those that are quantized. Raises as `load_packed` does.
    """
    from hf_sparse.checkpoint.comparing import compare_layers, compare_names, compare_tensor
    from hf_sparse.checkpoint.packed import quantized_entries, restored

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
