"""Freeze parameters by regular expressions for their names."""

from collections.abc import Sequence

from torch import nn

from hf_sparse.expressions import Expression


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


_SHOWN = 8
