"""Options of a short run for its model: freeze parameters, set dropout."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedConfig

from hf_sparse.expressions import Expression

# Names of modules that an error lists.
_SHOWN = 8

# Rates at which whole layers, or the paths of residual blocks, are dropped.
_OTHERS = ("layerdrop", "drop_path", "layer_dropout")


def set_dropout(config: PreTrainedConfig, rate: float) -> list[str]:
    """Set every dropout probability of a configuration, before a model is made of it.

    Models read their rates when they are made, some also in every forward pass, so the configuration that is
    saved with the model keeps the new ones.

    Args:
        config: Changed in place.
        rate: The share of values that are dropped in training, in [0, 1).

    Returns:
        The names of the settings that now hold it.

    Raises:
        ValueError: The rate is out of range, or the configuration lacks a dropout setting.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"a dropout rate is in [0, 1), got {rate}; 0 switches dropout off")
    own = config.get_text_config()
    names = [
        name
        for name, value in own.to_dict().items()
        if "drop" in name
        and isinstance(value, float | int)
        and not isinstance(value, bool)
        and not name.endswith(_OTHERS)
    ]
    if not names:
        raise ValueError(f"{type(own).__name__} lacks a dropout setting; leave --dropout out")
    for name in names:
        setattr(own, name, float(rate))
    return names


def freeze(model: nn.Module, expressions: Sequence[str]) -> int:
    """Freeze all parameters whose name matches one of these regular expressions, anywhere in the name.

    Args:
        model: The model, before its optimizer is made; changed in place.
        expressions: For example `embeddings`, or `layer\\.[01]\\.`.

    Returns:
        The number of weights that are frozen now.

    Raises:
        ValueError: An expression is invalid or matches no name, or no parameter would be left to train.
    """
    named = dict(model.named_parameters())
    for expression in expressions:
        pattern = Expression(expression, "freeze")
        found = [parameter for name, parameter in named.items() if pattern.search(name)]
        if not found:
            parts = dict.fromkeys(name.rpartition(".")[0] for name in named)
            raise ValueError(
                f"{expression!r} is found in the name of no parameter of {type(model).__name__}; its modules "
                f"are {', '.join(list(parts)[:_SHOWN])} ..."
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise ValueError(f"{', '.join(expressions)} freezes every weight; leave something to train")
    return sum(parameter.numel() for parameter in named.values() if not parameter.requires_grad)
