"""What a saved configuration says about the sparsity of its model, and whether the weights still keep it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError
from torch import nn

from hf_sparse.reading import shortened
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED
from hf_sparse.targets import Targets, base_prefix, find_targets

KEY = "hf_sparse"
FORMAT_VERSION = 1
Part = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True)
class Promise:
    """Of one weight: its pattern; the sparsity asked for, None if it was free; share and number removed."""

    pattern: str
    target: Part | None
    achieved: Part
    removed: NonNegativeInt


@dataclass(frozen=True)
class Contract:
    """The record of a sparse model, under `hf_sparse` in its config.json.

    Sparsity is a share of removed weights in [0, 1]; `digest` is a SHA-256 of the masks; `layers` goes by the
    names of weights within the base model, so that another head changes nothing.
    """

    pattern: str
    target: Part | None
    achieved: Part
    digest: str
    layers: Mapping[str, Promise]


_CONTRACT = TypeAdapter(Contract)


def read_contract(model: nn.Module) -> Contract | None:
    """Return the record in a model's configuration, None if there is none.

    Raises `ValueError` if it cannot be understood.
    """
    record = getattr(getattr(model, "config", None), KEY, None)
    if record is None:
        return None
    version = record.get("format_version") if isinstance(record, Mapping) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"the configuration's {KEY} record has format version {shortened(version)}, this release reads "
            f"{FORMAT_VERSION}; upgrade hf_sparse, or remove the record: del model.config.{KEY}"
        )
    try:
        return _CONTRACT.validate_python({name: record[name] for name in record if name != "format_version"})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"the configuration's {KEY} record is damaged ({where[:120]}: {first['msg']}); remove it: del "
            f"model.config.{KEY}"
        ) from error


def write_contract(
    model: nn.Module,
    masks: Masks,
    pattern: str | None,
    target: float | None,
    layers: Mapping[str, tuple[str, float | None]],
) -> None:
    """Record the masks in the configuration of a model, if it has one.

    `layers` holds pattern and target of each weight. Without `pattern` the zeros are those the model came
    with: what an earlier record says they are is kept.
    """
    if getattr(model, "config", None) is None:
        return
    earlier = read_contract(model) if pattern is None else None
    prefix = _prefix(model)
    promises = {}
    for name, (rows, columns) in masks.targets.shapes.items():
        own, removed = name.removeprefix(prefix), masks.removed(name)
        promised = earlier.layers.get(own) if earlier else None
        its, asked = (promised.pattern, promised.target) if promised else layers[name]
        promises[own] = Promise(its, asked, round(removed / (rows * columns), 6), removed)
    contract = Contract(
        pattern=earlier.pattern if earlier else pattern or "unstructured",
        target=earlier.target if earlier else target,
        achieved=round(masks.sparsity, 6),
        digest=masks.digest(prefix),
        layers=promises,
    )
    setattr(model.config, KEY, {"format_version": FORMAT_VERSION, **asdict(contract)})


def renew_contract(model: nn.Module) -> None:
    """Record the zeros of a model as they are now, of which some were taken out with their matrices.

    Without an earlier record there is none now.
    """
    earlier = read_contract(model)
    if earlier is None:
        return
    targets, prefix = find_targets(model, include=[""]), _prefix(model)
    kept = tuple(target for target in targets if target.name.removeprefix(prefix) in earlier.layers)
    masks = Masks(Targets(kept, targets.left_out))
    masks.lock_zeros(dict.fromkeys(masks.targets.names, UNSTRUCTURED))
    layers = {name: (earlier.layers[name.removeprefix(prefix)].pattern, None) for name in masks.targets.names}
    write_contract(model, masks, earlier.pattern, None, layers)


def lost_zeros(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the weights with fewer zeros than are recorded: how many were removed, how many zeros there are.

    Weights the model does not have, as of another head, are passed over.
    """
    contract = read_contract(model)
    if contract is None:
        return {}
    # Everything there is, since the run that was recorded may have pruned other weights than the default.
    every = find_targets(model, include=[""])
    found = measure_sparsity(model, every).zeros_per_target
    prefix = _prefix(model)
    zeros = {name.removeprefix(prefix): count for name, count in found.items()}
    return {
        name: (promise.removed, zeros[name])
        for name, promise in contract.layers.items()
        if name in zeros and zeros[name] < promise.removed
    }


def recorded_modules(model: nn.Module) -> set[str]:
    """Return the names of the model's modules, or 3-D parameters, whose weights its record names."""
    contract = read_contract(model)
    if contract is None:
        return set()
    prefix = _prefix(model)
    recorded = {name.removesuffix(".weight").partition("[")[0] for name in contract.layers}
    every = {
        target.name.removesuffix(".weight").partition("[")[0] for target in find_targets(model, include=[""])
    }
    return {name for name in every if name.removeprefix(prefix) in recorded}


def describe_lost(lost: Mapping[str, tuple[int, int]]) -> str:
    """Say in words which weights lost zeros."""
    shown = [f"{name} ({zeros:,} of {removed:,})" for name, (removed, zeros) in list(lost.items())[:3]]
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    subject = "1 weight has" if len(lost) == 1 else f"{len(lost)} weights have"
    return f"{subject} fewer zeros than the configuration records: {', '.join(shown)}{more}"


def _prefix(model: nn.Module) -> str:
    base = base_prefix(model)
    return f"{base}." if base else ""
