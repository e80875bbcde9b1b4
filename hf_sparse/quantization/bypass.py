"""Linears that a model does not call but multiplies with by their weight, so that nothing is rounded."""

from collections.abc import Iterable, Iterator

from torch import nn

from hf_sparse.architectures import USED_PAST_FORWARD
from hf_sparse.modules import named_modules
from hf_sparse.targets import Target

# Modules of PyTorch that do so, their Linears and the reason. In evaluation TransformerEncoderLayer hands all
# its weights to one kernel.
_OF_TORCH: dict[type[nn.Module], tuple[tuple[str, ...], str]] = {
    nn.MultiheadAttention: (("out_proj",), "multiplies with its weight itself"),
    nn.TransformerEncoderLayer: (("linear1", "linear2"), "multiplies with its weight itself in evaluation"),
}


def bypassed(model: nn.Module) -> dict[nn.Module, str]:
    """Return the Linears whose weights the model uses without calling them, each with the reason."""
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    of_model = USED_PAST_FORWARD.get(model_type, ())
    found = {}
    for entry in named_modules(model):
        if entry.name.rpartition(".")[2] in of_model:
            found[entry.module] = "the model multiplies with its weight itself"
        for child, reason in _read_by(entry.module):
            found[child] = f"{type(entry.module).__name__} {reason}"
    return found


def require_called(model: nn.Module, targets: Iterable[Target]) -> None:
    """Raise `ValueError` for targets whose weights the model is known to use without calling them."""
    past = bypassed(model)
    for target in targets:
        if (reason := past.get(target.module)) is not None:
            raise ValueError(
                f"{target.name} cannot be quantized: {reason}, past its forward, where rounding is; leave it "
                "out with quantization.exclude, or take a layer that calls its Linears"
            )


def require_seen(names: Iterable[str]) -> None:
    """Raise `ValueError` if there are names of quantized layers whose weights a batch used without a call."""
    if found := list(names):
        raise ValueError(
            f"{len(found)} quantized layers were not called, such as {found[0]}, and their weights were "
            "used: the model takes them itself, as by functional.linear(x, layer.weight), so they would not "
            "be rounded; call the layer there, or leave it out with quantization.exclude"
        )


def _read_by(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for kind, (names, reason) in _OF_TORCH.items():
        # A subclass with a forward of its own may well call them.
        if isinstance(module, kind) and type(module).forward is kind.forward:
            for name in names:
                if isinstance(child := getattr(module, name, None), nn.Module):
                    yield child, reason
