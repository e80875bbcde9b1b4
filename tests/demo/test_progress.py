"""Progress of the demo's stages: live on a terminal, one line a stage elsewhere."""

from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from hf_sparse.demo.progress import StageProgress, stage_lines


class Written(StringIO):
    """A stream that keeps what has been flushed."""

    flushed = ""

    def flush(self) -> None:
        self.flushed = self.getvalue()


def train(line: StageProgress, steps: int = 3) -> None:
    state = SimpleNamespace(max_steps=steps, global_step=0)
    line.on_train_begin(None, state, None)
    for state.global_step in range(1, steps + 1):
        line.on_step_end(None, state, None)
        line.on_log(None, state, None, {"loss": 0.5, "sparsity": 0.9})
    line.on_train_end(None, state, None)


def test_a_log_has_a_line_of_each_stage_as_it_ends() -> None:
    stream = Written()
    with stage_lines(Console(file=stream, width=80)) as progress:
        first, second = (StageProgress(progress, title) for title in ("1 First", "2 Second"))
        train(first)
        (line,) = stream.flushed.splitlines()
        assert line.startswith("1 First") and "3/3  loss 0.50  zeros 90%" in line
        second.skip(5)
        assert "2 Second" in stream.flushed and "5/5  done before" in stream.flushed
    assert len(stream.getvalue().splitlines()) == 2


def test_a_terminal_shows_them_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StringIO()
    with stage_lines(Console(file=stream, width=80, force_terminal=True)) as progress:
        train(StageProgress(progress, "1 First"))
        assert not progress.disable
    assert "\x1b[" in stream.getvalue() and "3/3  loss 0.50" in stream.getvalue()
