"""The part of a recipe about quantization."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from hf_sparse.fields import Part, Point, one_of, steps_of
from hf_sparse.quantization.activations import OBSERVERS
from hf_sparse.quantization.fake_layers import ACTIVATIONS
from hf_sparse.quantization.weights import read_weight_scheme

Scheme = Annotated[str, AfterValidator(lambda text: str(read_weight_scheme(text)))]


class QuantizationRecipe(Part):
    """How many bits weights and inputs have, and when their rounding is simulated.

    `embeddings` is the scheme for the weights of embedding tables; None leaves them as they are.
    """

    weights: Scheme = "int8_per_channel"
    activations: Annotated[str, one_of(ACTIVATIONS)] = "uint8_per_tensor"
    embeddings: Scheme | None = None
    observer: Annotated[str, one_of(OBSERVERS)] = "moving_average"
    begin: Point = "0%"
    freeze: Point = "80%"
    include: tuple[str, ...] = Field(default=(), strict=False)
    exclude: tuple[str, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _check_observer(self) -> Self:
        idle = self.model_fields_set & {"observer", "freeze"}
        if self.activations != "uint8_per_tensor" and idle:
            raise ValueError(
                f"activations {self.activations} need no range, so {', '.join(sorted(idle))} "
                "would be ignored; leave it out"
            )
        return self

    def resolve(self, total_steps: int) -> tuple[int, int]:
        """Return the step after which rounding begins, and the step after which ranges are frozen.

        Raises `ValueError` if no step is left in between to observe ranges.
        """
        begin, freeze = (steps_of(point, total_steps) for point in (self.begin, self.freeze))
        # A share of a short run may round to 0.
        freeze = max(freeze, begin + 1) if isinstance(self.freeze, str) else freeze
        if not begin < freeze or begin >= total_steps:
            raise ValueError(
                f"quantization begins at step {begin} of {total_steps} and its ranges freeze at step "
                f"{freeze}, which leaves no step to observe them; begin earlier or freeze later"
            )
        return begin, freeze
