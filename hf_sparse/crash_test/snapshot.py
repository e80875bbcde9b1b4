"""Everything in a training run that an interruption must not change, and where two runs first differ."""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_sparse.training.trainer import SparseTrainer

# The order in which differences are looked for: causes before their effects.
KINDS = {
    "random states": "random",
    "learning rate": "rate",
    "remembered values": "remembered",
    "masks": "masks",
    "ranges of quantized inputs": "ranges",
    "state of the method": "method",
    "learned scores and projections": "learned",
    "weights": "weights",
    "optimizer state": "optimizer",
    "trainer log": "log",
}
# Log entries that depend on the clock, and the mean loss, which Trainer takes over the steps of one process.
_OF_THE_CLOCK = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss")
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Sections of a sidecar that are taken as they are in memory, where all have the shape of their weights.
_IN_MEMORY = ("masks", "remembered")

Snapshot = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Difference:
    """The first value that differs between two runs: its kind, name and position, and how many others do.

    `position` is the index in a tensor, None for a number or a text.
    """

    kind: str
    name: str
    position: tuple[int, ...] | None
    straight: Any
    resumed: Any
    others: int

    def __str__(self) -> str:
        place = self.name if self.position is None else f"{self.name}{list(self.position)}"
        values = f"{self.straight!r} in the straight run, {self.resumed!r} in the resumed one"
        return f"{self.kind}: {place} is {values}"


def take(trainer: SparseTrainer) -> dict[str, dict[str, Any]]:
    """Return the state of a run at this moment, by kind and name; tensors are copies."""
    found: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS.values()}
    found["random"] = dict(_random_states())
    found["rate"] = {f"group {n}": group["lr"] for n, group in enumerate(trainer.optimizer.param_groups)}
    found["rate"] |= _flat(trainer.lr_scheduler.state_dict() if trainer.lr_scheduler else {}, "scheduler")
    model = trainer.accelerator.unwrap_model(trainer.model)
    found["weights"] = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if (sparsifier := trainer.sparsifier) is not None:
        masks = sparsifier.masks
        found["masks"] = {target.name: masks[target.name].clone() for target in masks.targets}
        if (remembered := sparsifier.remembered) is not None:
            whole = {target.name: remembered.whole(target).clone() for target in masks.targets}
            found["remembered"] = whole
    for part in trainer.parts:
        sections = {name: tensors for name, tensors in part.state().items() if name not in _IN_MEMORY}
        for section, tensors in sections.items():
            kind = section if section == "ranges" else "method"
            before = "" if kind == section else f"{section}/"
            found[kind] |= {f"{before}{name}": tensor.detach().clone() for name, tensor in tensors.items()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    for number, parameter in enumerate(_parameters(own)):
        name = names.get(id(parameter), f"parameter {number}")
        if id(parameter) not in names:
            found["learned"][name] = parameter.detach().clone()
        found["optimizer"] |= _flat(own.state.get(parameter, {}), name)
    *earlier, last = [_without_clock(line) for line in trainer.state.log_history] or [{}]
    found["log"] = _flat(last) | {"steps": trainer.state.global_step, "epochs": trainer.state.epoch}
    found["log"]["earlier lines"] = (
        f"{len(earlier)}, SHA-256 {sha256(json.dumps(earlier, sort_keys=True).encode()).hexdigest()[:16]}"
    )
    return found


def first_difference(straight: Snapshot, resumed: Snapshot) -> Difference | None:
    """Return where two snapshots first differ by one bit or more, None if they are equal."""
    found = list(_differences(straight, resumed))
    if not found:
        return None
    kind, name = found[0]
    ours: Any = straight[kind].get(name)
    theirs: Any = resumed[kind].get(name)
    position = None
    if _comparable(ours, theirs):
        position = tuple((~_same(ours, theirs)).nonzero()[0].tolist())
        ours, theirs = ours[position].item(), theirs[position].item()
    label = next(label for label, key in KINDS.items() if key == kind)
    return Difference(label, name, position, _shown(ours), _shown(theirs), len(found) - 1)


def _differences(straight: Snapshot, resumed: Snapshot) -> Iterator[tuple[str, str]]:
    for kind in KINDS.values():
        ours, theirs = straight[kind], resumed[kind]
        for name in {**ours, **theirs}:
            if name not in ours or name not in theirs or not _equal(ours[name], theirs[name]):
                yield kind, name


def _equal(one: Any, other: Any) -> bool:
    if torch.is_tensor(one) or torch.is_tensor(other):
        return _comparable(one, other) and bool(_same(one, other).all())
    # By their texts, so that NaN equals itself.
    return type(one) is type(other) and repr(one) == repr(other)


def _comparable(one: Any, other: Any) -> bool:
    tensors = torch.is_tensor(one) and torch.is_tensor(other)
    return tensors and one.shape == other.shape and one.dtype == other.dtype


def _same(one: Tensor, other: Tensor) -> Tensor:
    # Bits tell -0 from 0, and find NaN equal to itself.
    return one.view(_BITS[one.itemsize]) == other.view(_BITS[one.itemsize])


def _shown(value: Any) -> Any:
    return f"a tensor of {list(value.shape)}, {value.dtype}" if torch.is_tensor(value) else value


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    """Return nested values by path; what is neither a number, a text nor a tensor is left out."""
    if isinstance(values, Mapping):
        items = [(f"{path}/{key}" if path else f"{key}", value) for key, value in values.items()]
    elif isinstance(values, list | tuple):
        items = [(f"{path}/{index}", value) for index, value in enumerate(values)]
    elif torch.is_tensor(values):
        return {path: values.detach().clone()}
    else:
        return {path: values} if isinstance(values, int | float | str | None) else {}
    return {name: leaf for key, value in items for name, leaf in _flat(value, key).items()}


def _without_clock(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in _OF_THE_CLOCK}


def _random_states() -> Iterator[tuple[str, Any]]:
    _, words, gauss = random.getstate()
    yield "python", torch.tensor(words)
    yield "python/gauss", gauss
    name, keys, place, *rest = np.random.get_state()
    yield "numpy", torch.from_numpy(np.asarray(keys).astype(np.int64))
    yield "numpy/place", (int(place), *map(float, rest))
    yield "torch", torch.get_rng_state()
