"""What a recipe says about distillation."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from hf_sparse.settings.values import Part, Weight


class DistillationRecipe(Part):
    """Weights of the loss terms and the temperature of the softened distributions."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    task: Weight = 0.5
    logits: Weight = 0.5

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not self.logits:
            raise ValueError(
                "logits has weight 0, so the teacher would be run for nothing; leave distillation out"
            )
        return self
