"""Outputs of a teacher as bytes, one entry for each example without its padding, and back to a batch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hf_sparse.distillation.example_keys import Examples
from hf_sparse.distillation.kl import Largest
from hf_sparse.distillation.losses import is_discriminator

# Where an output is: its name, then a number or a name inside.
Place = tuple[str | int, ...]
# What an output has one row for: each example, each token, or each pair of tokens (heads, length, length).
Rows = Literal["examples", "tokens", "pairs"]

_ANSWERS = ("start_logits", "end_logits")
_SENTENCES = ("seq_relationship_logits", "sop_logits")
_TOKENS = "prediction_logits"
_LOGITS = "logits"


@dataclass(frozen=True)
class Output:
    """How an entry holds one output.

    Args:
        place: Where the output is.
        rows: What it has rows for.
        dtype: The name of the stored type of its numbers.
        shape: The shape of a row; of pairs, the number of heads.
        largest: The number of largest logits that are stored of `shape[-1]` classes; 0 if all are.
        temperature: The temperature that the mass of the other classes holds for, 0 if all are stored.
    """

    place: Place
    rows: Rows
    dtype: str
    shape: tuple[int, ...]
    largest: int = 0
    temperature: float = 0.0

    def fields(self, tokens: int) -> list[tuple[torch.dtype, tuple[int, ...]]]:
        """Return type and shape of the tensors that hold this output for an example."""
        dtype = _float(self.dtype)
        if self.rows == "pairs":
            return [(dtype, (*self.shape, tokens, tokens))]
        lead = (tokens,) if self.rows == "tokens" else ()
        if not self.largest:
            return [(dtype, (*lead, *self.shape))]
        lead = (*lead, *self.shape[:-1])
        known = (*lead, self.largest)
        return [(dtype, known), (_index(self.shape[-1]), known), (dtype, lead)]


Layout = tuple[Output, ...]


@dataclass(frozen=True)
class Storage:
    """What is stored of the outputs, see `TeacherCache`; `temperature` is that of the recipe."""

    top_k: int | None
    half: bool
    temperature: float


def wanted_logits(outputs: Mapping[str, Any]) -> dict[Place, Rows]:
    """Return the logits among the outputs of a teacher, with what each has rows for."""
    found: dict[Place, Rows] = {}
    for name in (_LOGITS, _TOKENS, *_ANSWERS, *_SENTENCES):
        if isinstance(outputs.get(name), Tensor):
            of_tokens = name in (_TOKENS, *_ANSWERS)
            if name == _LOGITS:
                of_tokens = outputs[name].dim() == 3 or is_discriminator(outputs)
            found[name,] = "tokens" if of_tokens else "examples"
    return found


def to_entries(
    outputs: Mapping[str, Any], wanted: Mapping[Place, Rows], examples: Examples, storage: Storage
) -> tuple[Layout, list[bytearray]]:
    """Return the wanted outputs of a batch as an entry for each example, and how entries hold them.

    Raises `ValueError` if an output does not have a row for each example, or cannot be rounded.
    """
    entries = [bytearray() for _ in examples.keys]
    layout = []
    for place, rows in wanted.items():
        tensor = _at(outputs, place)
        if not isinstance(tensor, Tensor) or len(tensor) != len(entries):
            found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(
                f"the teacher's {_named(place)} cannot be cached: expected a row for each of {len(entries)} "
                f"examples, got {found}; leave teacher_cache out"
            )
        output, fields = _stored(tensor.detach(), place, rows, examples, storage)
        layout.append(output)
        for parts in fields:
            for entry, part in zip(entries, parts, strict=True):
                entry += part.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return tuple(layout), entries


def to_batch(
    entries: Sequence[bytearray], layout: Layout, examples: Examples, device: torch.device
) -> dict[str, Any]:
    """Return outputs by name from entries, with zeros at padding.

    Raises `ValueError` if an entry is longer or shorter than the layout says.
    """
    outputs: dict[str, Any] = {}
    read = [0] * len(entries)
    for output in layout:
        fields: list[list[Tensor]] = [[] for _ in output.fields(0)]
        for row, (entry, tokens) in enumerate(zip(entries, examples.tokens, strict=True)):
            for parts, (dtype, shape) in zip(fields, output.fields(tokens), strict=True):
                part, read[row] = _taken(entry, read[row], dtype, shape)
                parts.append(part)
        _put(outputs, output.place, _joined(output, fields, examples, device))
    if read != [len(entry) for entry in entries]:
        raise ValueError("an entry is longer than its outputs")
    return outputs


def to_text(layout: Layout) -> str:
    """Return a layout as JSON."""
    return json.dumps([asdict(output) for output in layout])


def from_values(values: Any) -> Layout:
    """Return the layout that `to_text` wrote, from parsed JSON; raise `ValueError` for anything else."""
    try:
        layout = tuple(
            Output(**held | {name: tuple(held[name]) for name in ("place", "shape")}) for held in values
        )
        for output in layout:
            _check(output)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a layout of outputs: {error}") from error
    return layout


def _check(output: Output) -> None:
    """Raise `ValueError` for an output that `to_entries` never describes."""
    counts = (*output.shape, output.largest)
    if not isinstance(output.dtype, str):
        raise ValueError(f"not a layout of outputs: numbers of type {output.dtype}")
    _float(output.dtype)
    if output.rows not in get_args(Rows) or not output.place:
        raise ValueError(f"not a layout of outputs: rows of {output.rows} at {output.place}")
    if not all(isinstance(step, str | int) for step in output.place):
        raise ValueError(f"not a layout of outputs: a place {output.place}")
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"not a layout of outputs: a shape of {counts}")
    if output.largest and (output.rows != "tokens" or not output.shape):
        raise ValueError(f"not a layout of outputs: the largest logits of {output.rows}")
    if output.largest and output.largest >= output.shape[-1]:
        raise ValueError(
            f"not a layout of outputs: the {output.largest} largest of {output.shape[-1]} logits"
        )
    if type(output.temperature) not in (int, float) or not isfinite(output.temperature):
        raise ValueError(f"not a layout of outputs: a temperature of {output.temperature}")
    if (output.temperature > 0) != (output.largest > 0):
        raise ValueError(
            f"not a layout of outputs: a temperature of {output.temperature} for the "
            f"{output.largest} largest logits"
        )


def _stored(
    tensor: Tensor, place: Place, rows: Rows, examples: Examples, storage: Storage
) -> tuple[Output, list[Sequence[Tensor]]]:
    """Return how an output is stored, and for each of its fields the tensors of all examples."""
    keep = examples.keep
    if keep is None or rows == "examples":
        (whole,) = _on_cpu(storage, place, tensor)
        return Output(place, "examples", _name(whole), tuple(whole.shape[1:])), [list(whole)]
    if rows == "pairs":
        (whole,) = _on_cpu(storage, place, tensor)
        parts = [row[:, real][:, :, real] for row, real in zip(whole, keep, strict=True)]
        return Output(place, rows, _name(whole), (whole.shape[1],)), [parts]
    real = tensor[keep.to(tensor.device)]
    classes = real.shape[-1] if real.dim() > 1 else 0
    if storage.top_k is None or place not in ((_LOGITS,), (_TOKENS,)) or classes <= 2 * storage.top_k:
        (values,) = _on_cpu(storage, place, real)
        return Output(place, rows, _name(values), tuple(values.shape[1:])), [values.split(examples.tokens)]
    known = Largest.of(real, storage.top_k, storage.temperature)
    values, rest = _on_cpu(storage, place, known.values, known.rest)
    numbers = known.classes.cpu().to(_index(classes))
    output = Output(
        place, rows, _name(values), tuple(real.shape[1:]), storage.top_k, float(storage.temperature)
    )
    return output, [field.split(examples.tokens) for field in (values, numbers, rest)]


def _joined(
    output: Output, fields: Sequence[Sequence[Tensor]], examples: Examples, device: torch.device
) -> Tensor | Largest:
    if output.rows == "examples":
        return _exact(torch.stack([*fields[0]])).to(device)
    keep = examples.keep
    if keep is None:
        raise ValueError(f"{_named(output.place)} was stored for tokens, and the batch lacks them")
    if output.rows == "pairs":
        batch = fields[0][0].new_zeros(len(keep), *output.shape, *[keep.shape[1]] * 2)
        for row, part, real in zip(batch, fields[0], keep, strict=True):
            places = real.nonzero()[:, 0]
            row[:, places[:, None], places] = part
        return _exact(batch).to(device)
    values, *others = (_spread(torch.cat([*field]), keep).to(device) for field in fields)
    if not others:
        return values
    return Largest(values, others[0].long(), others[1], output.shape[-1], output.temperature)


def _spread(rows: Tensor, keep: Tensor) -> Tensor:
    """Put rows of tokens in their places in a batch, with zeros at padding."""
    rows = _exact(rows)
    if len(rows) == keep.numel():
        return rows.view(*keep.shape, *rows.shape[1:])
    batch = rows.new_zeros(*keep.shape, *rows.shape[1:])
    batch[keep] = rows
    return batch


def _exact(values: Tensor) -> Tensor:
    """Return numbers in the type that they are compared in: float16 only stores them."""
    if values.dtype == torch.uint16:
        return values.int()
    return values.float() if values.dtype == torch.float16 else values


def _taken(entry: bytearray, at: int, dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[Tensor, int]:
    count = prod(shape)
    end = at + count * dtype.itemsize
    if end > len(entry):
        raise ValueError("an entry is shorter than its outputs")
    if not count:
        return torch.empty(shape, dtype=dtype), end
    return torch.frombuffer(entry, dtype=dtype, count=count, offset=at).view(shape), end


def _on_cpu(storage: Storage, place: Place, *tensors: Tensor) -> list[Tensor]:
    if not storage.half:
        return [tensor.cpu() for tensor in tensors]
    rounded = [tensor.half() for tensor in tensors]
    for tensor, half in zip(tensors, rounded, strict=True):
        if bool((half.isinf() & tensor.isfinite()).any()):
            largest = tensor[tensor.isfinite()].abs().max().item()
            raise ValueError(
                f"the teacher's {_named(place)} reach {largest:.6g}, and float16 ends at 65504; set half to "
                "False (leave --teacher_cache_half out)"
            )
    return [half.cpu() for half in rounded]


def _at(outputs: Mapping[str, Any], place: Place) -> Any:
    found: Any = outputs
    for step in place:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError):
            return None
    return found


def _put(outputs: dict[str, Any], place: Place, value: Tensor | Largest) -> None:
    held: dict[Any, Any] = outputs
    for step in place[:-1]:
        held = held.setdefault(step, {})
    held[place[-1]] = value


def _named(place: Place) -> str:
    return " ".join(map(str, place))


def _index(classes: int) -> torch.dtype:
    return torch.uint16 if classes <= 2**16 else torch.int32


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _float(name: str) -> torch.dtype:
    found = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}.get(name)
    if name != "float64" and found is None:
        raise ValueError(f"outputs are not stored as {name}")
    return found or torch.float64
