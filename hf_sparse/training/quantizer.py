"""Layers of one model that compute with rounded weights and inputs during one training run."""

import logging
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_sparse.quantization.bypassed import require_called, require_seen
from hf_sparse.quantization.convert import attach
from hf_sparse.quantization.embeddings import find_embeddings
from hf_sparse.quantization.linear import LayerQuantization, Phase
from hf_sparse.quantization.weights import read_weight_scheme
from hf_sparse.settings.quantization import QuantizationRecipe
from hf_sparse.suitable import require_lasting
from hf_sparse.targets import find_targets

logger = logging.getLogger(__name__)


class Quantizer:
    """Rounds the weights and inputs of layers from one step on, and freezes the ranges at another.

    It is attached before the optimizer is made and changes no parameter. Until training begins the model
    computes as before. Raises `ValueError` for layers that cannot be quantized.
    """

    def __init__(self, recipe: QuantizationRecipe, model: nn.Module) -> None:
        self.recipe = recipe
        self.phase = Phase(active=False)
        self.layers: dict[str, LayerQuantization] = {}
        self._modules: dict[str, nn.Module] = {}
        self._unchecked = False
        self.attach(model)

    def attach(self, model: nn.Module) -> None:
        """Quantize a model, the first one or one that `model_init` has made since."""
        targets = find_targets(model, self.recipe.include, self.recipe.exclude)
        require_lasting(model, targets, "quantization")
        require_called(model, targets)
        embeddings = self.recipe.embeddings
        tables = find_embeddings(model) if embeddings else ()
        scheme = read_weight_scheme(self.recipe.weights)
        self.layers = attach(targets, scheme, self.recipe.activations, self.recipe.observer, self.phase)
        if embeddings and tables:
            scheme = read_weight_scheme(embeddings)
            self.layers |= attach(tables, scheme, "none", self.recipe.observer, self.phase)
        self._modules = {target.name.removesuffix(".weight"): target.module for target in (*targets, *tables)}

    def begin(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Prepare for a run of `model`; raise `RuntimeError` if another model was quantized."""
        inside = {id(module) for module in model.modules()}
        foreign = [name for name, module in self._modules.items() if id(module) not in inside]
        if foreign:
            raise RuntimeError(
                f"the model was replaced after it was quantized ({foreign[0]} is not in it); give the "
                "trainer the model to train, or model_init"
            )
        self._begin, self._freeze = self.recipe.resolve(total_steps)
        self._unchecked = True
        self.update(step)

    def check_called(self, accelerator: Accelerator) -> None:
        """Raise `ValueError` if the first backward pass reached a weight whose layer was not called."""
        if not self._unchecked:
            return
        self._unchecked = False
        called = torch.tensor([float(layer.called) for layer in self.layers.values()])
        # DDP averages gradients, so a layer has one if any process called it.
        called = accelerator.reduce(called.to(accelerator.device), "sum").tolist()
        require_seen(
            name
            for name, times in zip(self.layers, called, strict=True)
            if self._modules[name].weight.grad is not None and not times
        )

    def update(self, step: int) -> None:
        """Switch rounding and observing as they are after `step` optimizer steps."""
        self.phase.active = step >= self._begin
        self.phase.observing = step < self._freeze

    def end(self) -> None:
        """Freeze the ranges, and warn of layers whose input was never observed."""
        self.phase.observing = False
        unseen = [name for name, layer in self.layers.items() if not layer.observed]
        if unseen and self.phase.active:
            logger.warning(
                "No data has reached %d of %d quantized layers, such as %s: their inputs are not rounded, "
                "and the model cannot be exported.",
                len(unseen),
                len(self.layers),
                unseen[0],
            )

    def state(self) -> dict[str, Tensor]:
        """Return the range of each layer's input, (2,) float32, if one was observed and is finite."""
        ranges = {
            name: torch.stack(self._range(name)).cpu() for name, layer in self.layers.items() if layer.seen
        }
        return {name: ends for name, ends in ranges.items() if ends.isfinite().all()}

    def load_state(self, ranges: Mapping[str, Tensor]) -> None:
        """Set ranges as `state` returned them; raise `ValueError` if they belong to other layers."""
        if foreign := sorted(set(ranges) - set(self.layers)):
            raise ValueError(
                f"the checkpoint has ranges for {len(foreign)} layers that are not quantized here, such as "
                f"{foreign[0]}; resume with the recipe that wrote it"
            )
        for name, layer in self.layers.items():
            layer.seen = name in ranges
            low, high = ranges.get(name, (torch.tensor(torch.inf), torch.tensor(-torch.inf)))
            for buffer, end in zip(self._range(name), (low, high), strict=True):
                buffer.copy_(end)

    def _range(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the buffers that hold the range of a layer's input."""
        module = self._modules[name]
        return module.get_buffer("input_low"), module.get_buffer("input_high")
