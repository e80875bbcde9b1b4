"""Recipes as people write them: YAML, dotted assignments, mistakes."""

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: PyYAML alone reads 1e-4 as a string, and 2:4 as 124, in base 60."""

    # Lists of its own: they are shared with every other user of PyYAML otherwise.
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_DIGITS = list("-+.0123456789")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][\d_]*)$"), _DIGITS)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf)$|\.nan$"),
    _DIGITS,
)


def read_yaml(text: str) -> Any:
    """Parse YAML; an empty text is an empty mapping. Raises `ValueError` where it is malformed."""
    values = _load(text)
    return {} if values is None else values


def _load(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not readable as YAML: {error}") from error


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """Split `a.b=value` into its path and its value, read as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.strip().split(".")):
        raise ValueError(f"{text!r} is not an assignment; write it like sparsity.schedule.final=0.85")
    return path.strip().split("."), _load(value)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in plain sentences what is wrong with a recipe, where, and what would be right."""
    return "; ".join(dict.fromkeys(_sentence(detail, model) for detail in error.errors()))


def _sentence(detail: dict[str, Any], model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "recipe"
    if detail["type"] == "extra_forbidden":
        known = _known_keys(model, detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known keys are {', '.join(known)}"
        return f"{where} is not a recipe key; {hint}"
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(detail["input"], dict):
        return f"{where}: {message}"
    return f"{where} is {detail['input']!r}: {message[0].lower()}{message[1:]}"


def _known_keys(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """List the fields of the part at a path of fields, keys of mappings and kinds of unions."""
    for step in path:
        if step in model.model_fields:
            model = next(_models_in(model.model_fields[step].annotation), model)
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
