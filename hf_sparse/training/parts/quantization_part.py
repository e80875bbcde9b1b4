"""The quantization of a training run: layers that round from one step on, ranges that freeze at another."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from hf_sparse.checkpoint.sidecar import SavedState
from hf_sparse.recipe.quantization import QuantizationRecipe
from hf_sparse.training.host import Host
from hf_sparse.training.parts.part import Run, RunPart, require_one_process_per_device
from hf_sparse.training.parts.quantizer import Quantizer

# The section of the sidecar that holds the ranges of quantized layers' inputs.
_RANGES = "ranges"


class QuantizationPart(RunPart):
    """Quantizes the layers of a model when it is made, before the optimizer sees it."""

    def __init__(self, recipe: QuantizationRecipe, model: nn.Module) -> None:
        self.quantizer = Quantizer(recipe, model)

    def check(self, trainer: Host) -> None:
        """Raise `ValueError` if the training arguments do not fit the recipe."""
        require_one_process_per_device(trainer)
        if trainer.args.max_steps > 0:
            self.quantizer.recipe.resolve(trainer.args.max_steps)

    def attach(self, model: nn.Module) -> None:
        """Quantize another model that `model_init` has made."""
        self.quantizer.attach(model)

    def begin(self, run: Run, saved: SavedState | None) -> None:
        """Start with the ranges of the checkpoint, or with none."""
        self._load(saved)
        self.quantizer.begin(run.model, run.step, run.total_steps)

    def describe(self) -> Iterator[str]:
        """Yield how many layers are rounded, and how."""
        recipe, count = self.quantizer.recipe, len(self.quantizer.layers)
        yield f"Rounding {count} layers: weights {recipe.weights}, inputs {recipe.activations}"

    def after_backward(self, run: Run, last: bool) -> float:
        """Refuse, before the first step, layers whose weight is used past their `forward`."""
        # Sharded weights have gradients only after the last micro-batch.
        if last and run.accelerator is not None:
            self.quantizer.check_called(run.accelerator)
        return 0.0

    def step_end(self, run: Run) -> None:
        """Make ranges equal in all processes; switch rounding on, or freeze ranges, when it is time."""
        if run.accelerator is not None:
            self.quantizer.share_ranges(run.accelerator)
        self.quantizer.update(run.step)

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return the observed ranges."""
        return {_RANGES: self.quantizer.state()}

    def end(self, run: Run, best: SavedState | None) -> None:
        """Take the ranges of the best model, if it was loaded, and freeze them."""
        if best is not None:
            self._load(best)
        self.quantizer.end()

    def _load(self, saved: SavedState | None) -> None:
        self.quantizer.load_state({} if saved is None else saved.extras.get(_RANGES, {}))
