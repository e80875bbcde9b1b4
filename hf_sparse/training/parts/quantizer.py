"""Layers of one model that compute with rounded weights and inputs during one training run."""

from collections.abc import Collection, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_sparse.quantization.bypass import require_seen
from hf_sparse.quantization.convert import FakeQuantLayer
from hf_sparse.quantization.fake_layers import LayerQuantization, Phase
from hf_sparse.quantization.ranges import attach_layers
from hf_sparse.recipe.quantization import QuantizationRecipe


class Quantizer:
    """Rounds the weights and inputs of layers from one step on, and freezes the ranges at another.

    It is attached before the optimizer is made and changes no parameter. Until training begins the model
    computes as before. Raises `ValueError` for layers that cannot be quantized.
    """

    def __init__(self, recipe: QuantizationRecipe, model: nn.Module) -> None:
        self.recipe = recipe
        self.phase = Phase(active=False)
        self._unchecked = False
        self.attach(model)

    def attach(self, model: nn.Module) -> None:
        """Quantize a model, the first one or one that `model_init` has made since."""
        self._attached = attach_layers(model, self.recipe, self.phase)

    @property
    def layers(self) -> Mapping[str, LayerQuantization]:
        """How each layer is quantized, by the name of its module."""
        return self._attached.layers

    @property
    def modules(self) -> Mapping[str, FakeQuantLayer]:
        """The quantized modules by name."""
        return self._attached.modules

    def begin(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Prepare for a run of `model`; raise `RuntimeError` if another model was quantized."""
        inside = {id(module) for module in model.modules()}
        foreign = [name for name, module in self._attached.modules.items() if id(module) not in inside]
        if foreign:
            raise RuntimeError(
                f"the model was replaced after it was quantized ({foreign[0]} is not in it); give the "
                "trainer the model to train, or model_init"
            )
        self._begin, self._freeze = self.recipe.resolve(total_steps)
        self._unchecked = True
        self.update(step)

    def check_called(self, accelerator: Accelerator, reached: Collection[str] | None = None) -> None:
        """Raise `ValueError` if the first backward pass reached a weight whose layer was not called.

        `reached` has the names of layers with a gradient, if gradients are not kept in the weights.
        """
        if not self._unchecked:
            return
        self._unchecked = False
        called = torch.tensor([float(layer.called) for layer in self.layers.values()])
        # DDP averages gradients, so a layer has one if any process called it.
        called = accelerator.reduce(called.to(accelerator.device), "sum").tolist()
        if reached is None:
            reached = {name for name, module in self.modules.items() if module.weight.grad is not None}
        require_seen(
            name for name, times in zip(self.layers, called, strict=True) if name in reached and not times
        )

    def share_ranges(self, accelerator: Accelerator) -> None:
        """Give every process the same ranges, made of those that each has observed of its own batches."""
        if accelerator.num_processes > 1 and self.phase.active and self.phase.observing:
            self._attached.merge_ranges(accelerator.gather)

    def update(self, step: int) -> None:
        """Switch rounding and observing as they are after `step` optimizer steps."""
        self.phase.active = step >= self._begin
        self.phase.observing = step < self._freeze

    def end(self) -> None:
        """Freeze the ranges, and warn of layers whose input was never observed."""
        self.phase.observing = False
        if self.phase.active:
            self._attached.warn_of_unseen()

    def state(self) -> dict[str, Tensor]:
        """Return the observed range of each layer's input, (2,) float32, as far as finite ones were seen."""
        return self._attached.ranges()

    def load_state(self, ranges: Mapping[str, Tensor]) -> None:
        """Set ranges as `state` returned them; raise `ValueError` if they belong to other layers."""
        if foreign := sorted(set(ranges) - set(self.layers)):
            raise ValueError(
                f"the checkpoint has ranges for {len(foreign)} layers that are not quantized here, such as "
                f"{foreign[0]}; resume with the recipe that wrote it"
            )
        self._attached.load_ranges(ranges)
