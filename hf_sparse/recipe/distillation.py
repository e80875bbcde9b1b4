"""The part of a recipe about distillation."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from hf_sparse.distillation.features import term_names
from hf_sparse.distillation.layer_map import CHOICES
from hf_sparse.fields import Part, Weight, one_of


def _layers(value: object) -> object:
    """Accept a choice by name, or a mapping of layer numbers, whose keys JSON makes into text."""
    if isinstance(value, str) and value in CHOICES:
        return value
    if isinstance(value, dict) and value:
        pairs = [(_layer(student), _layer(teacher)) for student, teacher in value.items()]
        students = {student for student, _ in pairs}
        if len(students) == len(pairs) and all(layer is not None for pair in pairs for layer in pair):
            return dict(sorted(pairs))
    raise ValueError(
        f"choose one of {', '.join(CHOICES)}, or map numbers of student layers to those of teacher layers, "
        "such as {1: 2, 2: 4}"
    )


def _layer(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _by_layer(value: object) -> object:
    """Accept a mapping from layers, whose numbers JSON makes into text."""
    if not isinstance(value, dict) or None in (layers := [*map(_layer, value)]):
        raise ValueError("map numbers of student layers to weights, such as {6: 0.5}")
    if len(set(layers)) < len(layers):
        raise ValueError("each layer has one weight; write its number once")
    return dict(zip(layers, value.values(), strict=True))


def _weight_alone(value: object) -> object:
    """Accept the weight of a term in place of its settings."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"weight": value}
    if value is None or isinstance(value, dict | FeatureRecipe):
        return value
    raise ValueError("write a weight such as 1.0, or settings such as {weight: 1.0, layers: uniform}")


Layers = Annotated[str | dict[int, int], BeforeValidator(_layers)]


class FeatureRecipe(Part):
    """A distance between inner states: its weight, and which student layer learns from which teacher layer.

    Layers count from 1. `uniform` spreads the teacher's over the student's, `last` compares the last of each.
    """

    weight: Weight = 1.0
    layers: Layers = "uniform"


class HiddenRecipe(FeatureRecipe):
    """Squared error of hidden states; in a mapping, layer 0 is the embeddings.

    `normalize`: divide the error of each layer by the mean square of the teacher's states there.
    `layer_weights`: weights of student layers, 1 for layers that are not named. `log_layers`: log the error
    of each layer too.
    """

    normalize: bool = True
    layer_weights: Annotated[dict[int, Weight], BeforeValidator(_by_layer)] = Field(default_factory=dict)
    log_layers: bool = False


class AttentionRecipe(FeatureRecipe):
    """Divergence of attention probabilities."""

    layers: Layers = "last"


class RelationsRecipe(FeatureRecipe):
    """Divergence of the relations among queries, among keys, among values.

    `heads`: the number of parts that vectors are split into; by default the student's attention heads.
    """

    layers: Layers = "last"
    heads: Annotated[int, Field(ge=1)] | None = None


class DistillationRecipe(Part):
    """Weights of the loss terms, the temperature of softened distributions, and the origin of the teacher.

    `teacher`: `given` to the trainer; `self`, a frozen copy of the dense model that training starts from; or
    `base`, the model with its adapters off.
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    task: Weight = 0.5
    logits: Weight = 0.5
    hidden: Annotated[HiddenRecipe | None, BeforeValidator(_weight_alone)] = None
    attention: Annotated[AttentionRecipe | None, BeforeValidator(_weight_alone)] = None
    relations: Annotated[RelationsRecipe | None, BeforeValidator(_weight_alone)] = None
    teacher: Annotated[str, one_of(("given", "self", "base"))] = "given"

    @property
    def features(self) -> dict[str, Any]:
        """The settings of each feature term that has a weight, by the name of its field."""
        fields = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: part for name, part in fields if isinstance(part, FeatureRecipe) and part.weight}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss term, by its name."""
        terms = {name: settings.weight for name, settings in self.features.items()}
        return {"task": self.task, "logits": self.logits, **terms}

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not self.logits and not self.features:
            raise ValueError(
                "logits has weight 0, so the teacher would be run for nothing; leave distillation out, or "
                f"give a weight to logits, {term_names()}"
            )
        return self
