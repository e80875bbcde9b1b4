"""What is shown while a command works: on a terminal only, never among its results."""

import logging
import sys
from io import StringIO

import pytest
from transformers.utils import logging as transformers_logging

from hf_sparse.cli.waiting import counted, working


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (StringIO, False)])
def test_work_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stream: type[StringIO], shown: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream())
    with working("Packing"):
        assert transformers_logging.get_verbosity() == logging.ERROR
    assert list(counted([1, 2, 3], "Calibrating")) == [1, 2, 3]
    text = sys.stderr.getvalue()
    assert ("Packing ..." in text, "Calibrating" in text, text != "") == (shown, shown, shown)
    assert capsys.readouterr().out == ""
