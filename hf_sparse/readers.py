"""Readers of YAML, dotted assignments and JSON that anybody may have written.

Reading takes memory in proportion to the bytes of a text, and a bounded depth of calls.
"""

import difflib
import json
import re
from collections.abc import Hashable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

# Files of this project are at most ten levels deep.
_DEEPEST = 64
# A recipe has a few hundred characters; PyYAML takes up to a thousand bytes for each.
_LONGEST_YAML = 1 << 17
# Larger integers overflow a float; a tokenizer's length may be 1e30.
_BITS = 1000
_SHOWN = 120


class _Loader(yaml.SafeLoader):
    """A safe loader with the numbers of YAML 1.2, which refuses aliases, tags and duplicate keys.

    PyYAML reads 1e-4 as a string, and 2:4 as 124, in base 60. Aliases would let one line expand to gigabytes,
    the first of two equal keys would be lost, and tags construct other objects than plain values.
    """

    # Copied, since the lists of the base class are shared with every other user of PyYAML.
    yaml_implicit_resolvers = {
        first: [
            (tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float", ":merge"))
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refused("aliases are not read; write the value out", event.start_mark)
        if event.tag not in (None, "!"):
            raise _refused(f"the tag {shortened(event.tag)} is not read; leave it out", event.start_mark)
        if self._depth == _DEEPEST:
            raise _refused(f"more than {_DEEPEST} levels", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, Hashable):
                if name in seen:
                    raise _refused(f"{shortened(name)} is there twice; leave one out", key.start_mark)
                seen.add(name)
        return super().construct_mapping(node, deep)


def _refused(why: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=mark)


_DIGITS = list("-+.0123456789")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][\d_]*)$"), _DIGITS)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf)$|\.nan$"),
    _DIGITS,
)


def read_yaml(text: str, source: str | None = None) -> Any:
    """Parse YAML and return its value, an empty mapping for an empty text; errors name the `source`.

    Raises `ValueError` if the text is malformed, has aliases, tags or duplicate keys, or is longer or deeper
    than anything people write.
    """
    values = _load(text, source)
    return {} if values is None else values


def read_yaml_file(path: str | Path) -> Any:
    """Parse a YAML file as `read_yaml` does; its errors name the file."""
    with open(path, "rb") as file:
        content = file.read(_LONGEST_YAML + 1)
    try:
        return read_yaml(content.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}); save it as such") from error


def _load(text: str, source: str | None = None) -> Any:
    source = source or shortened(text)
    if len(text) > _LONGEST_YAML:
        raise ValueError(f"{source} is longer than {_LONGEST_YAML} characters of YAML; shorten it")
    try:
        value = yaml.load(text, Loader=_Loader)
        _check(value)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{source} is not readable as YAML: {_reason(error)}; correct it") from error
    return value


def _reason(error: Exception) -> str:
    """Return the problem that a parser found, and its place, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error).partition("\n")[0]
    mark = error.problem_mark
    where = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
    return ", ".join(part for part in (error.context, error.problem) if part) + where


def read_json(path: str | Path, what: str, way_out: str, own: bool = False) -> dict[str, Any]:
    """Read a JSON file that holds an object, and return it as a dict; `own` as in `parse_json`.

    `what` says in errors what the file should be, `way_out` how to get a valid one. Raises `ValueError` for
    any other content, and `OSError` if the file cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        found = parse_json(content, own)
        if not isinstance(found, dict):
            raise ValueError("it does not hold a table of names and values")
    except ValueError as error:
        raise ValueError(f"{path} is not a valid {what} ({error}); {way_out}") from error
    return found


def parse_json(content: str | bytes, own: bool = False) -> Any:
    """Parse JSON and return its value; raise `ValueError` if it is malformed, too deep or too large.

    With `own`, for files that hf_sparse wrote, duplicate names and numbers that are not finite are errors,
    too. In other files the last of several values counts, and a loss may be NaN.
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        value = json.loads(text, **_OWN if own else {})
    except RecursionError:
        raise ValueError(f"more than {_DEEPEST} levels") from None
    _check(value)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shortened(next(name for name in names if names.count(name) > 1))} is there twice")
    return found


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    if not isfinite(float(text)):
        _refuse_number(shortened(text))
    return float(text)


_OWN: dict[str, Any] = {"object_pairs_hook": _once, "parse_constant": _refuse_number, "parse_float": _finite}


def _check(value: Any) -> None:
    """Raise `ValueError` for too many levels, too large integers, and texts that a file could not hold."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST + 1):
        inner: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                inner += part.keys()
                inner += part.values()
            elif isinstance(part, list):
                inner += part
            elif isinstance(part, str):
                # Fails for surrogates, which JSON and YAML can escape and UTF-8 cannot encode.
                part.encode()
                if "\0" in part:
                    raise ValueError("there is a zero byte in a text")
            elif isinstance(part, int) and part.bit_length() > _BITS:
                raise ValueError(f"{shortened(part)} is larger than any float")
        level = inner
        if not level:
            return
    raise ValueError(f"more than {_DEEPEST} levels")


def shortened(value: object) -> str:
    """Return the `repr` of a value, without its middle if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN * 2 // 3]} ... {text[-_SHOWN // 6 :]}"


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """Split `a.b=value` into its path and its value, read as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.strip().split(".")):
        raise ValueError(
            f"{shortened(text)} is not an assignment; write it like sparsity.schedule.final=0.85"
        )
    return path.strip().split("."), _load(value)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return in plain sentences what is wrong with a recipe, where, and how to correct it."""
    return "; ".join(dict.fromkeys(_sentence(detail, model) for detail in error.errors()))


def _sentence(detail: ErrorDetails, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "recipe"
    if detail["type"] == "extra_forbidden":
        known = _known_keys(model, detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known keys are {', '.join(known)}"
        return f"{where} is not a recipe key; {hint}"
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(detail["input"], dict):
        return f"{where}: {message}"
    return f"{where} is {shortened(detail['input'])}: {message[0].lower()}{message[1:]}"


def _known_keys(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """Return the field names of the model at a path of fields, keys of mappings and members of unions."""
    for step in path:
        if step in (known := keys_of(model)):
            model = next(_models_in(known[step]), model)
    return list(keys_of(model))


def keys_of(model: type[BaseModel]) -> dict[Any, Any]:
    """Return the type of every key of a part of a recipe: its fields, and what its `further_keys` returns."""
    fields = {name: field.annotation for name, field in model.model_fields.items()}
    return fields | getattr(model, "further_keys", dict)()


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
