"""What all processes of a run must agree on, and failures of one process that end the run on all of them."""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainingArguments

from hf_sparse.checkpoint.run_record import record_of
from hf_sparse.environment import versions
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.shards import Part
from hf_sparse.sparsity.masks import Masks
from hf_sparse.training.host import Host

logger = logging.getLogger(__name__)

# Rows that are compared, evenly spread over the training data.
_ROWS = 16
_SHOWN = 5


def require_agreement(trainer: Host, recipe: Recipe) -> None:
    """Raise `ValueError` on every process if recipe, arguments, versions or training data differ among them.

    Of the data the number of rows is compared, and some rows where reading them has no other effect. With an
    empty recipe everywhere a difference is a warning, since Trainer would go on.
    """
    if not _together(trainer.args):
        return
    record = record_of(trainer, recipe)
    own: dict[str, Any] = {name: f"{value}" for name, value in record.arguments.items()}
    own |= {"rows of training data": record.train_samples, "content of rows": _digest(trainer.train_dataset)}
    _compare(own, recipe)


def require_same_recipe(args: TrainingArguments, recipe: Recipe) -> None:
    """Raise `ValueError` on every process if recipe or versions differ among those of a run."""
    if _together(args):
        _compare({}, recipe)


def _compare(settings: Mapping[str, Any], recipe: Recipe) -> None:
    own = {**dict(_flat(recipe.model_dump(mode="json"))), **settings}
    own |= {f"version of {name}": version for name, version in versions().items()}
    found: list[dict[str, Any]] = gather_object([own])
    disputed = [
        name for name in dict.fromkeys(key for each in found for key in each) if _differs(name, found)
    ]
    if not disputed:
        return
    said = "; ".join(f"{name} is {_values(name, found)}" for name in disputed[:_SHOWN])
    more = f"; and {len(disputed) - _SHOWN} more" if len(disputed) > _SHOWN else ""
    message = (
        f"the processes of this run disagree ({said}{more}), so they would train different models; start all "
        "of them with the same recipe, training arguments, versions and data"
    )
    if recipe != Recipe() or any(_is_of_recipe(name) for name in disputed):
        raise ValueError(message)
    logger.warning("%s", message)


def require_same_masks(masks: Masks) -> None:
    """Raise `RuntimeError`, on every process, if processes have other masks for weights that they all have.

    Digests of the masks are compared, layer by layer: of whole masks under DDP, of the same part under FSDP2
    with replicas. All processes of a run must call this; a single process returns at once.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    own = {target.name: (_place(target.part), masks.bits(target.name).digest()) for target in masks.targets}
    gathered: list[dict[str, tuple[tuple[int, ...], bytes]]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    if len({tuple(found) for found in gathered}) > 1:
        raise RuntimeError(
            f"processes prune other weights: {_listed([len(found) for found in gathered])} targets; start "
            "every process with the same recipe, model and versions"
        )
    for name in own:
        for place in {found[name][0] for found in gathered}:
            alike = [rank for rank, found in enumerate(gathered) if found[name][0] == place]
            digests = {rank: gathered[rank][name][1] for rank in alike}
            usual = Counter(digests.values()).most_common(1)[0][0]
            if other := [rank for rank in alike if digests[rank] != usual]:
                raise RuntimeError(
                    f"the mask of {name} differs between processes: rank {_listed(other)} from rank "
                    f"{_listed(rank for rank in alike if rank not in other)}; their weights or versions "
                    "differ, so resume from the last checkpoint, with the same software on every machine"
                )


@contextmanager
def failing_together(trainer: Host, what: str) -> Iterator[None]:
    """Raise on every process if the block fails on one, instead of letting the others wait.

    Processes must come to the end of the block together, without a collective operation inside that a failed
    one would miss. The others raise `RuntimeError` with the rank and its error.
    """
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
    if _together(trainer.args):
        said = None if failed is None else f"{type(failed).__name__}: {failed}"
        found = {rank: each for rank, each in enumerate(gather_object([said])) if each is not None}
        if found and failed is None:
            rank, reason = next(iter(found.items()))
            raise RuntimeError(f"{what} failed on rank {rank} ({reason}); this process ends with it")
    if failed is not None:
        raise failed


def _together(args: TrainingArguments) -> bool:
    return args.world_size > 1 and torch.distributed.is_available() and torch.distributed.is_initialized()


def _flat(values: Mapping[str, Any], path: str = "recipe") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value


def _is_of_recipe(name: str) -> bool:
    return name.startswith("recipe.")


def _differs(name: str, found: list[dict[str, Any]]) -> bool:
    return len({repr(each.get(name)) for each in found}) > 1


def _values(name: str, found: list[dict[str, Any]]) -> str:
    """Return the values of a disputed setting with the ranks that have them."""
    ranks = defaultdict(list)
    for rank, each in enumerate(found):
        ranks[repr(each[name]) if name in each else "unset"].append(f"{rank}")
    said = {value: f"rank{'s'[: len(several) - 1]} {', '.join(several)}" for value, several in ranks.items()}
    return " and ".join(f"{value} on {where}" for value, where in said.items())


def _digest(data: Any) -> str | None:
    """Return a digest of some rows, None where reading one may change what is read next."""
    plain = isinstance(data, list) or (isinstance(data, Dataset) and data.format["type"] != "custom")
    if not plain or not len(data):
        return None
    digest = hashlib.sha256()
    for place in np.linspace(0, len(data) - 1, min(_ROWS, len(data))).astype(int).tolist():
        for piece in _pieces(data[place]):
            digest.update(piece.encode() + b"\0")
    return digest.hexdigest()[:12]


def _pieces(value: Any) -> Iterator[str]:
    """Yield texts that are equal for equal values in any process."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"{key}"
            yield from _pieces(value[key])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _pieces(each)
    elif isinstance(value, torch.Tensor | np.ndarray):
        yield f"{value.tolist()}"
    else:
        yield repr(value) if isinstance(value, str | bytes | int | float | None) else type(value).__name__


def _place(part: Part | None) -> tuple[int, ...]:
    return () if part is None else (part.start, part.stop)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
