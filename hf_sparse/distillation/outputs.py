"""The outputs of a model by name, whatever form it returns them in."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_ANSWERS = ("start_logits", "end_logits")


def named(outputs: Any, inputs: Mapping[str, Any], who: str) -> Mapping[str, Any]:
    """Return the outputs of `who`, a student or a teacher, over a batch by name.

    Mappings are returned as they are. A tensor is the logits. So is the first tensor of a tuple, after the
    loss where there is one; where the batch has positions of answers, the first two are those of start and
    end. Raises `ValueError` for anything else.
    """
    if isinstance(outputs, Mapping):
        return outputs
    values = outputs if isinstance(outputs, tuple | list) else (outputs,)
    if values and isinstance(values[0], Tensor) and not values[0].dim():
        values = values[1:]
    names = _ANSWERS if inputs.get("start_positions") is not None else ("logits",)
    values = values[: len(names)]
    if len(values) < len(names) or not all(isinstance(value, Tensor) for value in values):
        kinds = ", ".join(type(value).__name__ for value in values) or type(outputs).__name__
        raise ValueError(
            f"the {who} returned {kinds} where {' and '.join(names)} were looked for; return a dictionary of "
            "tensors by name, as models of transformers do"
        )
    return dict(zip(names, values, strict=True))
