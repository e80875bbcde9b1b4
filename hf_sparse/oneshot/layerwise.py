"""Walking through a model layer by layer, each one seeing what the pruned ones before it give."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_sparse.targets import Target, Targets


@dataclass
class _Call:
    """What a layer is called with for one batch, without the hidden states."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass
class Current:
    """The batch that is being run: which of its tokens, (batch, length), are not padding, if it says so."""

    tokens: Tensor | None = None


def layer_stack(model: nn.Module, targets: Targets) -> tuple[str, nn.ModuleList]:
    """Return the list of layers that holds all targets, with its name; raise `ValueError` if none does."""
    for name, module in model.named_modules():
        inside = f"{name}."
        if isinstance(module, nn.ModuleList) and all(target.name.startswith(inside) for target in targets):
            return name, module
    raise ValueError(
        f"the targets of {type(model).__name__} lie in several stacks of layers, or in none; prune one of "
        "them at a time with include, or use method magnitude"
    )


def walk(
    model: nn.Module,
    targets: Targets,
    batches: Iterable[Mapping[str, Tensor]],
    visit: Callable[[list[Target], Callable[[], object], Current], None],
) -> int:
    """Call `visit` for every layer with its targets, a function that runs it on all batches, the current one.

    After a visit the layer runs once more, changed as it is, for the next one to see. Hidden states of all
    batches are held in memory. Returns the number of batches; raises `ValueError` if there is none, and for
    models whose layers are not called one after the other, once each.
    """
    name, layers = layer_stack(model, targets)
    current = Current()
    with torch.no_grad(), _evaluating(model):
        hidden, calls, tokens = _calls(model, layers, batches)
        if not hidden:
            raise ValueError("there is no batch to calibrate with; give texts that the model is meant for")

        def run(number: int) -> list[Tensor]:
            outputs = []
            for states, batch, current.tokens in zip(hidden, calls, tokens, strict=True):
                outputs.append(_run(layers[number], states, batch[number]))
            return outputs

        for number in range(len(layers)):
            own = [target for target in targets if target.name.startswith(f"{name}.{number}.")]
            if own:
                visit(own, partial(run, number), current)
            hidden[:] = run(number)
    return len(hidden)


def _run(layer: nn.Module, states: Tensor, call: _Call) -> Tensor:
    output = layer(states, *call.arguments, **call.keywords)
    return output[0] if isinstance(output, tuple) else output


def _calls(
    model: nn.Module, layers: nn.ModuleList, batches: Iterable[Mapping[str, Tensor]]
) -> tuple[list[Tensor], list[list[_Call]], list[Tensor | None]]:
    """Return for every batch what the first layer reads, how each layer is called, which tokens count."""
    hidden, calls, tokens = [], [], []
    numbers = {id(layer): number for number, layer in enumerate(layers)}
    seen: list[tuple[int, Tensor, _Call]] = []

    def note(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        rest = dict(keywords)
        states, *others = arguments or (rest.pop("hidden_states"),)
        if seen and not torch.equal(states, given[-1]):
            raise ValueError(
                f"{type(model).__name__} changes what a layer gives before the next one reads it; use method "
                "magnitude"
            )
        seen.append((numbers[id(layer)], states, _Call(tuple(others), rest)))

    def keep(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        given[:] = [output[0] if isinstance(output, tuple) else output]

    given: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(keep) for layer in layers]
    try:
        for batch in batches:
            seen.clear()
            model(**batch)
            if [number for number, _, _ in seen] != list(range(len(layers))):
                raise ValueError(
                    f"{type(model).__name__} does not call its layers one after the other, once each; use "
                    "method magnitude"
                )
            hidden.append(seen[0][1])
            calls.append([call for _, _, call in seen])
            mask = batch.get("attention_mask")
            tokens.append(None if mask is None or mask.dim() != 2 else mask.bool())
    finally:
        for hook in hooks:
            hook.remove()
    return hidden, calls, tokens


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training, config = model.training, getattr(model, "config", None)
    # A cache would grow with every run of a layer. Models of several kinds of input have a part for text.
    caching = [part for part in _configurations(config) if getattr(part, "use_cache", False)]
    model.eval()
    for part in caching:
        part.use_cache = False
    try:
        yield
    finally:
        model.train(training)
        for part in caching:
            part.use_cache = True


def _configurations(config: Any) -> list[Any]:
    return [] if config is None else [config, config.get_text_config()]
