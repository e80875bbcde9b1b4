"""The log of a run, read from the state that its Trainer saves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from hf_sparse.readers import read_json, shortened

STATE = "trainer_state.json"
_STATE, _WAY_OUT = "state of a Trainer", "delete it, or copy it again from where it was written"

Log = Sequence[Mapping[str, float]]


def read_log(directory: str | Path) -> list[dict[str, float]]:
    """Return the numbers that a Trainer logged, one mapping for each step, in order.

    Training and evaluation of a step share its mapping. Reads the state that `furthest_state` returns, and
    raises what that raises.
    """
    rows: dict[int, dict[str, float]] = {}
    for line in furthest_state(directory)["log_history"]:
        numbers = {key: value for key, value in line.items() if is_number(value)}
        rows.setdefault(line["step"], {}).update(numbers)
    return [rows[step] for step in sorted(rows)]


def is_number(value: object) -> bool:
    """Return whether a logged or measured value is a number; true and false do not count."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def furthest_state(directory: str | Path) -> dict[str, Any]:
    """Return the state in a Trainer's output directory or last checkpoint, whichever logged more steps.

    Raises `ValueError` if neither has one, or if one is damaged.
    """
    directory = Path(directory)
    last = get_last_checkpoint(str(directory)) if directory.is_dir() else None
    places = [directory / STATE, *([Path(last) / STATE] if last else [])]
    states = [_read_state(path) for path in places if path.is_file()]
    if not states:
        raise ValueError(
            f"{directory} and its checkpoints lack a {STATE}; name the output directory of a Trainer"
        )
    return max(states, key=lambda state: max((line["step"] for line in state["log_history"]), default=0))


def _read_state(path: Path) -> dict[str, Any]:
    state = read_json(path, _STATE, _WAY_OUT)
    lines = state.get("log_history")
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ValueError(
            f"{path} is not a valid {_STATE} (its log_history is not a list of tables); {_WAY_OUT}"
        )
    for line in lines:
        if not isinstance(step := line.get("step"), int) or isinstance(step, bool) or step < 0:
            raise ValueError(
                f"{path} is not a valid {_STATE} (a step in it is {shortened(step)}); {_WAY_OUT}"
            )
    return state
