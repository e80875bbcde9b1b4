"""What a Trainer has logged, read from the state that it saves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from hf_sparse.reading import read_json, shortened

STATE = "trainer_state.json"
_STATE, _WAY_OUT = "state of a Trainer", "delete it, or copy it again from where it was written"

Log = Sequence[Mapping[str, float]]


def read_log(directory: str | Path) -> list[dict[str, float]]:
    """Return what a Trainer logged, by step, in the state that `furthest_state` returns; raises as that does.

    Numbers of one step, as of training and evaluation, are in one mapping.
    """
    rows: dict[int, dict[str, float]] = {}
    for line in furthest_state(directory)["log_history"]:
        numbers = {key: value for key, value in line.items() if is_number(value)}
        rows.setdefault(line["step"], {}).update(numbers)
    return [rows[step] for step in sorted(rows)]


def is_number(value: object) -> bool:
    """Say whether something logged or measured is a number, and not a yes or no."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def furthest_state(directory: str | Path) -> dict[str, Any]:
    """Return the state that a Trainer saved in its output directory or its last checkpoint.

    The one with the later step in its log counts. Raises `ValueError` if there is none, or one is damaged.
    """
    directory = Path(directory)
    last = get_last_checkpoint(str(directory)) if directory.is_dir() else None
    places = [directory / STATE, *([Path(last) / STATE] if last else [])]
    states = [_read_state(path) for path in places if path.is_file()]
    if not states:
        raise ValueError(
            f"{directory} has no {STATE}, nor a checkpoint with one; name the output directory of a Trainer"
        )
    return max(states, key=lambda state: max((line["step"] for line in state["log_history"]), default=0))


def _read_state(path: Path) -> dict[str, Any]:
    state = read_json(path, _STATE, _WAY_OUT)
    lines = state.get("log_history")
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ValueError(f"{path} is no {_STATE} (its log_history is no list of tables); {_WAY_OUT}")
    for line in lines:
        if not isinstance(step := line.get("step"), int) or isinstance(step, bool) or step < 0:
            raise ValueError(f"{path} is no {_STATE} (a step in it is {shortened(step)}); {_WAY_OUT}")
    return state
