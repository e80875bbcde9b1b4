"""Weights that a run leaves as they are."""

from collections.abc import Sequence

from torch import nn

from hf_sparse.expressions import Expression


def freeze(model: nn.Module, expressions: Sequence[str]) -> int:
    """Stop the training of all parameters whose name any of these regular expressions is found in.

    Args:
        model: Its parameters are changed in place, before an optimizer is made of them.
        expressions: For example `embeddings`, or `layer\\.[01]\\.`.

    Returns:
        The number of weights that are frozen now.

    Raises:
        ValueError: An expression is none, is found in no name, or nothing would be left to train.
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
