"""What a saved configuration says about the sparsity of its model, and whether the weights still keep it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Annotated

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError
from torch import nn

from hf_sparse.modules import named_modules, pretrained_parts
from hf_sparse.reading import shortened
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED
from hf_sparse.targets import LeftOut, Targets, every_weight, module_of

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

    The configuration is that of the model of transformers in it, if there is exactly one. Raises `ValueError`
    if the record cannot be understood.
    """
    record = _record(model)
    if record is None or record is False:
        return None
    version = record.get("format_version") if isinstance(record, Mapping) else None
    if not isinstance(record, Mapping) or version != FORMAT_VERSION:
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


def is_declared_dense(model: nn.Module) -> bool:
    """Say whether a model's configuration has `False` in place of a record: its zeros are to train."""
    return _record(model) is False


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
    parts = _parts(model)
    for part in parts:
        if getattr(part.model, "config", None) is None:
            continue
        earlier = read_contract(part.model) if pattern is None else None
        names = {name: part.own(name) for name in masks.targets.names if len(parts) == 1 or part.holds(name)}
        promises, shapes = {}, masks.targets.shapes
        for name, own in names.items():
            removed, size = masks.removed(name), prod(shapes[name])
            promised = earlier.layers.get(own) if earlier else None
            its, asked = (promised.pattern, promised.target) if promised else layers[name]
            promises[own] = Promise(its, asked, round(removed / size, 6), removed)
        gone, size = sum(map(masks.removed, names)), sum(prod(shapes[name]) for name in names)
        contract = Contract(
            pattern=earlier.pattern if earlier else pattern or "unstructured",
            target=earlier.target if earlier else target,
            achieved=round(gone / size, 6) if size else 0.0,
            digest=masks.digest(names),
            layers=promises,
        )
        setattr(part.model.config, KEY, {"format_version": FORMAT_VERSION, **asdict(contract)})


def renew_contract(model: nn.Module) -> None:
    """Record the zeros of a model as they are now, of which some were taken out with their matrices.

    Without an earlier record there is none now.
    """
    earlier = read_contract(model)
    if earlier is None:
        return
    targets, (part,) = every_weight(model), _parts(model)
    kept = tuple(target for target in targets if part.own(target.name) in earlier.layers)
    masks = Masks(Targets(kept, targets.left_out))
    masks.lock_zeros(dict.fromkeys(masks.targets.names, UNSTRUCTURED))
    layers = {name: (earlier.layers[part.own(name)].pattern, None) for name in masks.targets.names}
    write_contract(model, masks, earlier.pattern, None, layers)


def lost_zeros(model: nn.Module) -> dict[str, tuple[int, int | None]]:
    """Return the weights with fewer zeros than are recorded: how many were removed, how many zeros there are.

    Weights the model does not have, as of another head, are passed over, and so are those whose values are
    out of reach. If it has none of those that are recorded they are all returned, without a number of zeros.
    """
    lost: dict[str, tuple[int, int | None]] = {}
    for part in _parts(model):
        contract = read_contract(part.model)
        promised = {} if contract is None else {n: p for n, p in contract.layers.items() if p.removed}
        if not promised:
            continue
        # Everything there is, since the run that was recorded may have pruned other weights than the default.
        every = every_weight(model)
        if _own_modules(part, every).isdisjoint(map(module_of, promised)):
            lost |= {name: (promise.removed, None) for name, promise in promised.items()}
            continue
        wanted = {target.name: part.own(target.name) for target in every}
        chosen = tuple(target for target in every if wanted[target.name] in promised)
        found = measure_sparsity(model, Targets(chosen, ())).zeros_per_target if chosen else {}
        for name, zeros in found.items():
            if zeros < promised[wanted[name]].removed:
                lost[wanted[name]] = promised[wanted[name]].removed, zeros
    return lost


def recorded_modules(model: nn.Module) -> set[str]:
    """Return the names of the model's modules, or 3-D parameters, whose weights its record names."""
    found: set[str] = set()
    for part in _parts(model):
        contract = read_contract(part.model)
        if contract is not None:
            recorded = set(map(module_of, contract.layers))
            found |= {
                module_of(name) for name in every_weight(model).names if module_of(part.own(name)) in recorded
            }
    return found


def recorded_out_of_reach(model: nn.Module) -> list[LeftOut]:
    """Return what a record names and nothing can be written into, such as weights that are sharded."""
    found = []
    for part in _parts(model):
        contract = read_contract(part.model)
        names = (
            set()
            if contract is None
            else {module_of(name) for name, own in contract.layers.items() if own.removed}
        )
        away = (entry for entry in every_weight(model).left_out if entry.obstacle is not None)
        found += [entry for entry in away if part.own(entry.name) in names]
    return found


def describe_lost(lost: Mapping[str, tuple[int, int | None]]) -> str:
    """Say in words which weights lost zeros."""
    if all(zeros is None for _, zeros in lost.values()):
        return (
            f"the configuration records zeros of {len(lost)} weights, such as {next(iter(lost))}, and the "
            "model has no weight of any of these names"
        )
    shown = [f"{name} ({zeros or 0:,} of {removed:,})" for name, (removed, zeros) in list(lost.items())[:3]]
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    subject = "1 weight has" if len(lost) == 1 else f"{len(lost)} weights have"
    return f"{subject} fewer zeros than the configuration records: {', '.join(shown)}{more}"


def _record(model: nn.Module) -> object:
    parts = list(pretrained_parts(model))
    return getattr(getattr(parts[0] if len(parts) == 1 else model, "config", None), KEY, None)


@dataclass(frozen=True)
class _Part:
    """A model of transformers with a configuration, alone or in another one.

    `prefix` is what the names of its weights begin with in the whole model, `base` those of its base model.
    """

    model: nn.Module
    prefix: str
    base: str

    def holds(self, name: str) -> bool:
        return name.startswith(self.prefix)

    def own(self, name: str) -> str:
        """Return the name of a weight as it is recorded."""
        return name.removeprefix(self.base if name.startswith(self.base) else self.prefix)


def _parts(model: nn.Module) -> list[_Part]:
    names = {id(entry.module): f"{entry.name}.".lstrip(".") for entry in named_modules(model)}
    parts, found = [], list[nn.Module](pretrained_parts(model))
    for part in found or [model]:
        prefix = names.get(id(part), "")
        base = names.get(id(getattr(part, "base_model", part)), prefix)
        parts.append(_Part(part, prefix, base))
    return parts


def _own_modules(part: _Part, every: Targets) -> set[str]:
    """Return the modules of a part that a record could name, those with values out of reach included."""
    names = (*every.names, *(entry.name for entry in every.left_out))
    return {module_of(part.own(name)) for name in names}
