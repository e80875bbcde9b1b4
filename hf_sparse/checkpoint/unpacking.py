"""The step of transformers' loading that puts unpacked tensors in place of the bytes it read."""

from typing import Any

from torch import Tensor
from transformers.core_model_loading import ConversionOps, WeightConverter

from hf_sparse.checkpoint.container import SUFFIX
from hf_sparse.checkpoint.quantizer import PackedQuantizer


class Unpacked(ConversionOps):
    """Answers with the tensor of a model that belongs to the bytes of an entry."""

    def __init__(self, hf_quantizer: PackedQuantizer) -> None:
        # By this name transformers knows that it must not cast what it read.
        self.hf_quantizer = hf_quantizer

    def __deepcopy__(self, memo: dict[int, Any]) -> "Unpacked":
        """Share the tensors: transformers copies a converter for every key."""
        return self

    def convert(
        self, input_dict: dict[str, list[Tensor]], *_: Any, full_layer_name: str, model: Any, **__: Any
    ) -> dict[str, Tensor]:
        ((content, *_),) = input_dict.values()
        planned = model.get_parameter_or_buffer(full_layer_name)
        return {full_layer_name: self.hf_quantizer.tensors[full_layer_name].to(content.device, planned.dtype)}


def unpacked_converter(hf_quantizer: PackedQuantizer) -> WeightConverter:
    """Return the converter that takes an entry's bytes for the tensor named before their suffix."""
    return WeightConverter([SUFFIX.replace(".", r"\.") + "$"], [""], [Unpacked(hf_quantizer)])
