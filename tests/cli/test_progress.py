"""Progress of commands: on a terminal only, never on the standard output."""

import logging
import sys
from io import StringIO

import pytest
from transformers.utils import logging as transformers_logging

from hf_sparse.cli.progress import counted, working


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (StringIO, False)])
def test_work_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stream: type[StringIO], shown: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream())
    before = [logging.getLogger(name).level for name in ("huggingface_hub", "datasets")]
    with working("Packing"):
        assert transformers_logging.get_verbosity() == logging.ERROR
        # It tries five times, and warns each time.
        assert not logging.getLogger("huggingface_hub").isEnabledFor(logging.WARNING)
        # It raises the same.
        assert not logging.getLogger("datasets").isEnabledFor(logging.ERROR)
    assert before == [logging.getLogger(name).level for name in ("huggingface_hub", "datasets")]
    assert list(counted([1, 2, 3], "Calibrating")) == [1, 2, 3]
    text = sys.stderr.getvalue()
    assert ("Packing ..." in text, "Calibrating" in text, text != "") == (shown, shown, shown)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("long", "told"), [(0.0, ["Packing: done in 0 s", "Reading: done in 0 s"]), (1e9, [])]
)
def test_a_log_is_told_of_what_took_long_as_it_ends(
    long: float, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pipe(StringIO):
        flushed = ""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    monkeypatch.setattr("hf_sparse.cli.progress._LONG", long)
    monkeypatch.setattr(sys, "stderr", Pipe())
    with working("Packing"):
        pass
    assert sys.stderr.flushed.splitlines() == told[:1]
    assert list(counted([1, 2], "Reading")) == [1, 2]
    assert sys.stderr.flushed.splitlines() == told
