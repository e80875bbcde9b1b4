"""The config.json of a saved model, which anybody may have written."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from hf_sparse.architectures import COUNTS_OF_PARTS
from hf_sparse.readers import read_json, shortened

_WAY_OUT = "restore it, or save the model again"
# No model has more of any part that its configuration counts.
_COUNTED = re.compile(COUNTS_OF_PARTS)
_MOST = 4096
_LABELS = "num_labels"
# Errors of transformers and PyTorch for values they cannot use; the first one derives from `Exception` alone.
_OF_VALUES = (
    StrictDataclassError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_config(file: Path) -> dict[str, Any]:
    """Return the table in a JSON file beside the weights of a model; raise `ValueError` if it is damaged."""
    return read_json(file, "JSON", _WAY_OUT)


def saved_quantization(file: Path) -> dict[str, Any] | None:
    """Return the `quantization_config` of a config.json, None without one.

    Raises `ValueError` for a damaged file.
    """
    held = read_config(file).get("quantization_config")
    if held is not None and not isinstance(held, dict):
        raise ValueError(f"the quantization_config in {file} is {shortened(held)}, not a table; {_WAY_OUT}")
    return held


def method_of(held: Mapping[str, Any]) -> str:
    """Return the name of the format in a `quantization_config`."""
    return str(held.get("quant_method", "quantized"))


def require_plausible(file: Path) -> None:
    """Raise `ValueError` for a config.json that is damaged, or asks for more parts than any model has.

    transformers spends time and memory on each part before it reads a weight.
    """
    config = read_config(file)
    named = config.get("architectures")
    if named is not None and not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        raise ValueError(f"architectures in {file} is {shortened(named)}, not a list of names; {_WAY_OUT}")
    level: list[tuple[str, Any]] = list(config.items())
    while level:
        inner: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, dict):
                inner += value.items()
            elif isinstance(value, list):
                inner += [(name, part) for part in value]
            elif isinstance(value, int) and value > _most(name, file):
                raise ValueError(f"{name} in {file} is {value}, more than any model has; {_WAY_OUT}")
        level = inner


def _most(name: str, file: Path) -> float:
    if name == _LABELS:
        # Each label has a name in the file, unless none was ever given.
        return max(1 << 20, file.stat().st_size)
    return _MOST if _COUNTED.search(name) else float("inf")


@contextmanager
def described_by(file: str | Path) -> Iterator[None]:
    """Run a block that makes a model from a configuration; an error names the file, as `ValueError`.

    Errors of lacking memory, and those that already name the directory, pass unchanged.
    """
    try:
        yield
    except _OF_VALUES as error:
        said = str(error)
        if "allocate" in said or (isinstance(error, ValueError) and str(Path(file).parent) in said):
            raise
        first = next((line.strip() for line in said.splitlines() if line.strip()), "")
        raise ValueError(
            f"{file} describes no model that can be made of the files beside it ({type(error).__name__}: "
            f"{first[:300]}); {_WAY_OUT}"
        ) from error
