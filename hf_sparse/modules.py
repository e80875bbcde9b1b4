"""Modules by the names of their weights on disk: base model, layer stack, adapters."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from accelerate.utils import is_compiled_module
from torch import nn
from transformers import PreTrainedModel

# The child that holds the original module: in tuner layers, in trained copies (`modules_to_save`), in
# trainable tokens; and in PyTorch's wrapper that checkpoints activations.
_WRAPPED = ("base_layer", "original_module", "token_adapter", "_checkpoint_wrapped_module")


@dataclass(frozen=True)
class NamedModule:
    """A module, the name of its weights on disk, and whether it is part of an adapter."""

    name: str
    module: nn.Module
    adapter: bool = False


def named_modules(model: nn.Module) -> Iterator[NamedModule]:
    """Yield each module of a model once, like `nn.Module.named_modules`, under its name on disk.

    A layer inside an adapter keeps its original name, and the wrapper is left out. Wrappers of the whole
    model (peft, sentence-transformers) are left out, too. Modules of an adapter have names below that of the
    layer they adapt.
    """
    seen: set[int] = set()
    kept = saved_model(model)
    yield from _walk(kept, "", False, seen)
    # Modules outside of the saved model, such as a pooling layer or the encoder of a prompt.
    yield from _walk(model, "", kept is not model and _is_of(model, "peft"), seen)


def saved_model(model: nn.Module) -> nn.Module:
    """Return the part of a model whose weights are saved, without wrappers of the whole.

    These are the compiler's, which FSDP2 leaves around a model, and those of peft and sentence-transformers.
    """
    if is_compiled_module(model):
        return saved_model(model.get_submodule("_orig_mod"))
    if _is_of(model, "peft") and (base_model := getattr(model, "get_base_model", None)) is not None:
        return saved_model(base_model())
    if _is_of(model, "sentence_transformers"):
        towers = list(pretrained_parts(model))
        return towers[0] if len(towers) == 1 else model
    return model


def class_name(model: nn.Module) -> str:
    """Return the name of a model's class, without what FSDP2 puts before it."""
    return type(model).__name__.removeprefix("FSDP")


def pretrained_parts(model: nn.Module) -> Iterator[PreTrainedModel]:
    """Yield the outermost transformers models in a module; it may be one itself."""
    if isinstance(model, PreTrainedModel):
        yield model
        return
    for child in model.children():
        yield from pretrained_parts(child)


def has_adapter(model: nn.Module) -> bool:
    """Return whether a model has an adapter; saving it then saves the adapter alone."""
    return adapter_owner(model) is not None


def adapter_owner(model: nn.Module) -> Literal["peft", "transformers"] | None:
    """Return which library added the adapter of a model, None without an adapter.

    `transformers` stands for `model.add_adapter`, which also uses peft's layers; `peft` for all other ways.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        return "transformers"
    adapted = any(_is_of(part, "peft") or hasattr(part, "adapter_layer_names") for part in model.modules())
    return "peft" if adapted else None


def base_prefix(model: nn.Module) -> str:
    """Return the name of the base model in a model, "" for a model without a head."""
    kept = saved_model(model)
    base = getattr(kept, "base_model", kept)
    return next((entry.name for entry in named_modules(model) if entry.module is base), "")


def base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of the base model with their names, without those of its layer stack."""
    wanted = base_names(model) - layer_stack(model)
    return ((entry.name, entry.module) for entry in named_modules(model) if entry.name in wanted)


def base_names(model: nn.Module) -> set[str]:
    """Return the names of all modules of the base model."""
    prefix = base_prefix(model)
    return {
        entry.name
        for entry in named_modules(model)
        if not prefix or entry.name == prefix or entry.name.startswith(prefix + ".")
    }


def layer_stack(model: nn.Module) -> set[str]:
    """Return the names of all modules in the repeated layers: below an `nn.ModuleList` of the base model."""
    base = base_names(model)
    lists = [
        entry.name
        for entry in named_modules(model)
        if isinstance(entry.module, nn.ModuleList) and entry.name in base
    ]
    return {name for name in base if any(name.startswith(f"{parent}.") for parent in lists)}


def routers(model: nn.Module) -> set[str]:
    """Return the names of modules that select or weigh experts, and of all modules below them."""
    names = [entry.name for entry in named_modules(model)]
    blocks = {name.rpartition(".")[0] for name in names if name.endswith(".experts")}

    def routes(name: str) -> bool:
        parent, _, own = name.rpartition(".")
        return "router" in own or (own.endswith("gate") and parent in blocks)

    chosen = {name for name in names if routes(name)}
    return {name for name in names if any(f"{name}.".startswith(f"{router}.") for router in chosen)}


def _walk(module: nn.Module, name: str, adapter: bool, seen: set[int]) -> Iterator[NamedModule]:
    if id(module) in seen:
        return
    seen.add(id(module))
    children = {key: child for key, child in module._modules.items() if child is not None}
    wrapped = next((key for key in (*_WRAPPED, _ADAPTED) if _wraps(module, key)), None)
    if wrapped is not None:
        yield from _walk(children.pop(wrapped), name, adapter, seen)
    else:
        yield NamedModule(name, module, adapter)
    for key, child in children.items():
        below = f"{name}.{key}".lstrip(".")
        yield from _walk(child, below, adapter or wrapped is not None, seen)


# The child of peft's AdaptedAttention, which is not a tuner layer.
_ADAPTED = "model"


def _wraps(module: nn.Module, key: str) -> bool:
    inside = module._modules.get(key) is not None
    return inside and (key in _WRAPPED or type(module).__name__ == "AdaptedAttention")


def _is_of(module: nn.Module, package: str) -> bool:
    """Return whether the class of a module comes from a package or derives from one that does."""
    return any(kind.__module__.partition(".")[0] == package for kind in type(module).__mro__)


def is_skeleton(model: nn.Module) -> bool:
    """Return whether a model has shapes but no values, not even offloaded ones."""
    return all(parameter.is_meta for parameter in model.parameters()) and not any(
        # The hook by which accelerate fetches offloaded weights.
        hasattr(module, "_hf_hook")
        for module in model.modules()
    )
