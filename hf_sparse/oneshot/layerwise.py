"""Pruning layer by layer: each layer is run on the outputs of the pruned layers before it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.targets import Target, Targets


class InputStatistics(ABC):
    """Collects the inputs of one weight (out, in), then chooses which of its entries to remove.

    `kept` is a boolean mask (out, in) of entries that are not removed yet, by default all. Removed entries
    are zeros, which stay and count. `prunes_blocks` is False for methods that remove single weights only.
    """

    prunes_blocks = True

    def __init__(self, weight: Tensor, kept: Tensor | None = None) -> None:
        self.weight, self.count = weight, 0
        self.kept = torch.ones_like(weight, dtype=torch.bool) if kept is None else kept

    def add(self, inputs: Tensor) -> None:
        """Add inputs (tokens, in) to the statistics."""
        self.count += len(inputs)
        self._add(inputs.float())

    @abstractmethod
    def _add(self, inputs: Tensor) -> None: ...

    @abstractmethod
    def prune(self, sparsity: float, block: Block) -> Tensor:
        """Remove weights in place until this share is removed, and return the mask (out, in) of those kept.

        No larger share may have been removed before.
        """


def share_out(total: int, sizes: Tensor, removed: Tensor) -> Tensor:
    """Return how many weights each part is to have removed, in proportion to its size; the sum is `total`.

    A part with more weights `removed` already keeps that count, and the others lose fewer.
    """
    room = (_in_proportion(total, sizes) - removed).clamp(min=0)
    return removed + _in_proportion(total - removed.sum(), room)


def _in_proportion(total: int | Tensor, sizes: Tensor) -> Tensor:
    ends = total * sizes.cumsum(0) // sizes.sum().clamp(min=1)
    return ends.diff(prepend=ends.new_zeros(1))


@dataclass
class _Call:
    """The arguments of a layer for one batch, without the hidden states."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


@dataclass
class Current:
    """The batch that is being run; `tokens` is its attention mask (batch, length) as booleans, if any."""

    tokens: Tensor | None = None


def layer_stack(model: nn.Module, targets: Targets) -> tuple[str, nn.ModuleList]:
    """Return the name of the list of layers that holds all targets, and the list.

    Raises `ValueError` if no list holds all of them.
    """
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
    """Call `visit` for every layer with targets, and return the number of batches.

    `visit` gets the targets of the layer, a function that runs the layer on all batches, and the batch that
    is being run. After the visit the layer runs once more, as pruned, to make the inputs of the next layer.
    Hidden states of all batches are held in memory. Raises `ValueError` without batches, and for models
    whose layers are not called one after the other, once each.
    """
    name, layers = layer_stack(model, targets)
    current = Current()
    with torch.no_grad(), _evaluating(model):
        hidden, calls, tokens = _calls(model, layers, batches)
        if not hidden:
            raise ValueError("calibration needs at least one batch; give texts that the model is meant for")

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
    """Return for every batch the input of the first layer, the call of each layer, and the mask of tokens."""
    hidden: list[Tensor] = []
    calls: list[list[_Call]] = []
    tokens: list[Tensor | None] = []
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
    # A cache would grow with every run of a layer. Multimodal models configure their text model separately.
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
