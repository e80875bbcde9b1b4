"""The sparsity record in a model's configuration, and whether the weights still have the recorded zeros."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Annotated

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError
from torch import nn

from hf_sparse.modules import named_modules, pretrained_parts
from hf_sparse.readers import shortened
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED
from hf_sparse.targets import LeftOut, Targets, every_weight, module_of

KEY = "hf_sparse"
FORMAT_VERSION = 1
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True)
class WeightRecord:
    """The record of one weight: its pattern, the target sparsity (None if free), share and number removed."""

    pattern: str
    target: Fraction | None
    achieved: Fraction
    removed: NonNegativeInt


@dataclass(frozen=True)
class SparsityRecord:
    """The sparsity record of a model, under `hf_sparse` in its config.json.

    `target` and `achieved` are shares of removed weights in [0, 1]; `digest` is a SHA-256 of the masks; the
    keys of `layers` are names of weights within the base model, so that another head changes nothing.
    """

    pattern: str
    target: Fraction | None
    achieved: Fraction
    digest: str
    layers: Mapping[str, WeightRecord]


_CONTRACT = TypeAdapter(SparsityRecord)


def read_sparsity_record(model: nn.Module) -> SparsityRecord | None:
    """Return the sparsity record in a model's configuration, None without one.

    The configuration is that of the one model of transformers inside, if there is exactly one. Raises
    `ValueError` if the record is damaged or of another format version.
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
    """Return whether a configuration has `False` in place of a record: the zeros of the model may train."""
    return _record(model) is False


def write_sparsity_record(
    model: nn.Module,
    masks: Masks,
    pattern: str | None,
    target: float | None,
    layers: Mapping[str, tuple[str, float | None]],
) -> None:
    """Write the masks into the configuration of a model, if it has one.

    `layers` holds pattern and target of each weight. Without `pattern` the zeros are those that the model
    came with: pattern and target of an earlier record are kept.
    """
    parts = _parts(model)
    for part in parts:
        if getattr(part.model, "config", None) is None:
            continue
        earlier = read_sparsity_record(part.model) if pattern is None else None
        names = {name: part.own(name) for name in masks.targets.names if len(parts) == 1 or part.holds(name)}
        promises, shapes = {}, masks.targets.shapes
        for name, own in names.items():
            removed, size = masks.removed(name), prod(shapes[name])
            promised = earlier.layers.get(own) if earlier else None
            its, asked = (promised.pattern, promised.target) if promised else layers[name]
            promises[own] = WeightRecord(its, asked, round(removed / size, 6), removed)
        gone, size = sum(map(masks.removed, names)), sum(prod(shapes[name]) for name in names)
        record = SparsityRecord(
            pattern=earlier.pattern if earlier else pattern or "unstructured",
            target=earlier.target if earlier else target,
            achieved=round(gone / size, 6) if size else 0.0,
            digest=masks.digest(names),
            layers=promises,
        )
        setattr(part.model.config, KEY, {"format_version": FORMAT_VERSION, **asdict(record)})


def renew_sparsity_record(model: nn.Module) -> None:
    """Bring the record of a model up to date after rows or columns were removed from its matrices.

    A model without a record stays without one.
    """
    earlier = read_sparsity_record(model)
    if earlier is None:
        return
    targets, (part,) = every_weight(model), _parts(model)
    kept = tuple(target for target in targets if part.own(target.name) in earlier.layers)
    masks = Masks(Targets(kept, targets.left_out))
    masks.lock_zeros(dict.fromkeys(masks.targets.names, UNSTRUCTURED))
    layers = {name: (earlier.layers[part.own(name)].pattern, None) for name in masks.targets.names}
    write_sparsity_record(model, masks, earlier.pattern, None, layers)


def lost_zeros(model: nn.Module) -> dict[str, tuple[int, int | None]]:
    """Return the weights with fewer zeros than recorded: the number removed, and the number of zeros now.

    Weights that the model lacks, as of another head, are passed over, and so are weights whose values cannot
    be read (sharded, offloaded). If it lacks every recorded weight, all are returned, with None for zeros.
    """
    lost: dict[str, tuple[int, int | None]] = {}
    for part in _parts(model):
        record = read_sparsity_record(part.model)
        promised = {} if record is None else {n: p for n, p in record.layers.items() if p.removed}
        if not promised:
            continue
        # All weights, since the recorded run may have pruned others than the default.
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
    """Return the names of the modules, or 3-D parameters, of a model whose weights are in its record."""
    found: set[str] = set()
    for part in _parts(model):
        record = read_sparsity_record(part.model)
        if record is not None:
            recorded = set(map(module_of, record.layers))
            found |= {
                module_of(name) for name in every_weight(model).names if module_of(part.own(name)) in recorded
            }
    return found


def recorded_out_of_reach(model: nn.Module) -> list[LeftOut]:
    """Return the recorded weights that cannot be written to, such as sharded ones."""
    found = []
    for part in _parts(model):
        record = read_sparsity_record(part.model)
        names = (
            set()
            if record is None
            else {module_of(name) for name, own in record.layers.items() if own.removed}
        )
        away = (entry for entry in every_weight(model).left_out if entry.obstacle is not None)
        found += [entry for entry in away if part.own(entry.name) in names]
    return found


def describe_lost(lost: Mapping[str, tuple[int, int | None]]) -> str:
    """Return a sentence on the weights that `lost_zeros` returned."""
    if all(zeros is None for _, zeros in lost.values()):
        return (
            f"the configuration records zeros of {len(lost)} weights, such as {next(iter(lost))}, and the "
            "model lacks all of them"
        )
    shown = [f"{name} ({zeros or 0:,} of {removed:,})" for name, (removed, zeros) in list(lost.items())[:3]]
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    subject = "1 weight has" if len(lost) == 1 else f"{len(lost)} weights have"
    return f"{subject} fewer zeros than the configuration records: {', '.join(shown)}{more}"


def _record(model: nn.Module) -> object:
    parts = list(pretrained_parts(model))
    return getattr(getattr(parts[0] if len(parts) == 1 else model, "config", None), KEY, None)


@dataclass(frozen=True)
class _RecordedModel:
    """A model of transformers with a configuration, alone or inside another model.

    In the whole model the names of its weights begin with `prefix`, those of its base model with `base`.
    """

    model: nn.Module
    prefix: str
    base: str

    def holds(self, name: str) -> bool:
        return name.startswith(self.prefix)

    def own(self, name: str) -> str:
        """Return the name under which the record has a weight."""
        return name.removeprefix(self.base if name.startswith(self.base) else self.prefix)


def _parts(model: nn.Module) -> list[_RecordedModel]:
    names = {id(entry.module): f"{entry.name}.".lstrip(".") for entry in named_modules(model)}
    parts, found = [], list[nn.Module](pretrained_parts(model))
    for part in found or [model]:
        prefix = names.get(id(part), "")
        base = names.get(id(getattr(part, "base_model", part)), prefix)
        parts.append(_RecordedModel(part, prefix, base))
    return parts


def _own_modules(part: _RecordedModel, every: Targets) -> set[str]:
    """Return the modules of a part that a record could name, with values that can be read or not."""
    names = (*every.names, *(entry.name for entry in every.left_out))
    return {module_of(part.own(name)) for name in names}
