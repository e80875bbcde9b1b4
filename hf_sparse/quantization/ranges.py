"""The layers that a recipe quantizes in one model, and the observed ranges of their inputs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from hf_sparse.quantization.activations import merge
from hf_sparse.quantization.bypass import require_called
from hf_sparse.quantization.convert import FakeQuantLayer, as_quantized, attach
from hf_sparse.quantization.embeddings import find_embeddings
from hf_sparse.quantization.fake_layers import LayerQuantization, Phase
from hf_sparse.quantization.weights import read_weight_scheme
from hf_sparse.savable import require_lasting
from hf_sparse.targets import find_targets

logger = logging.getLogger(__name__)


class QuantizationSettings(Protocol):
    """The part of a recipe that says which layers are quantized, and how."""

    @property
    def weights(self) -> str: ...
    @property
    def activations(self) -> str: ...
    @property
    def embeddings(self) -> str | None: ...
    @property
    def observer(self) -> str: ...
    @property
    def include(self) -> Sequence[str]: ...
    @property
    def exclude(self) -> Sequence[str]: ...


@dataclass(frozen=True, eq=False)
class AttachedLayers:
    """The quantized layers of a model: how each is quantized and its module, by the name of the module."""

    layers: dict[str, LayerQuantization]
    modules: dict[str, FakeQuantLayer]

    def ranges(self) -> dict[str, Tensor]:
        """Return the observed finite range of each layer's input, (2,) float32, by the layer's name."""
        found = {
            name: torch.stack([module.input_low, module.input_high]).cpu()
            for name, module in self.modules.items()
            if self.layers[name].seen
        }
        return {name: ends for name, ends in found.items() if ends.isfinite().all()}

    def load_ranges(self, ranges: Mapping[str, Tensor]) -> None:
        """Set the ranges of all layers; a layer whose name is missing starts without one."""
        for name, module in self.modules.items():
            self.layers[name].seen = name in ranges
            low, high = ranges.get(name, (torch.tensor(torch.inf), torch.tensor(-torch.inf)))
            module.input_low.copy_(low)
            module.input_high.copy_(high)

    def merge_ranges(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Merge the ranges that several processes have observed; `gather` joins their tensors by rows."""
        modules = list(self.modules.values())
        own = torch.stack([end for module in modules for end in (module.input_low, module.input_high)])
        both = gather(own[None]).view(-1, len(modules), 2)
        observer = next(iter(self.layers.values())).observer
        low, high = merge(observer, both[..., 0], both[..., 1])
        seen = low.isfinite().tolist()
        for number, (name, module) in enumerate(self.modules.items()):
            module.input_low.copy_(low[number])
            module.input_high.copy_(high[number])
            self.layers[name].seen = self.layers[name].seen or seen[number]

    def warn_of_unseen(self) -> None:
        """Warn of layers that need a range of their input and have seen no data."""
        unseen = [name for name, layer in self.layers.items() if not layer.observed]
        if unseen:
            logger.warning(
                "No data has reached %d of %d quantized layers, such as %s: their inputs are not rounded, "
                "and the model cannot be exported.",
                len(unseen),
                len(self.layers),
                unseen[0],
            )


def attach_layers(model: nn.Module, settings: QuantizationSettings, phase: Phase) -> AttachedLayers:
    """Quantize the layers of a model that a recipe names, without ranges yet; `phase` is shared by all.

    Raises `ValueError` for layers that cannot be quantized.
    """
    targets = find_targets(model, settings.include, settings.exclude)
    require_lasting(model, targets, "quantization")
    require_called(model, targets)
    scheme, tables = settings.embeddings, find_embeddings(model) if settings.embeddings else ()
    weights = read_weight_scheme(settings.weights)
    layers = attach(targets, weights, settings.activations, settings.observer, phase)
    if scheme is not None and tables:
        layers |= attach(tables, read_weight_scheme(scheme), "none", settings.observer, phase)
    modules = {
        target.name.removesuffix(".weight"): as_quantized(target.module) for target in (*targets, *tables)
    }
    return AttachedLayers(layers, modules)


def restore_quantization(
    model: nn.Module, settings: QuantizationSettings, ranges: Mapping[str, Tensor], source: Path
) -> None:
    """Quantize a loaded model as it was quantized in training, with ranges that nothing moves.

    `ranges` come from the file `source`. Raises `ValueError` for ranges of layers that the model lacks.
    """
    attached = attach_layers(model, settings, Phase(observing=False))
    if foreign := sorted(ranges.keys() - attached.layers.keys()):
        raise ValueError(
            f"{source} has ranges for {len(foreign)} layers that the model beside it does not have, such as "
            f"{foreign[0]}; restore the files that were saved together"
        )
    attached.load_ranges(ranges)
    attached.warn_of_unseen()
