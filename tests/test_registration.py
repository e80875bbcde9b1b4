"""The packed format is known to transformers whichever of the two packages is imported first."""

import subprocess
import sys

import pytest

from hf_sparse.checkpoint.quantizer import METHOD, SUPPORTED

KNOWN = (
    f"from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING as known; assert {METHOD!r} in known"
)
LOOKED_FOR = "import importlib.util; importlib.util.find_spec('transformers.quantizers.auto')"


@pytest.mark.skipif(not SUPPORTED, reason="transformers before 5.23 has no hooks for it")
@pytest.mark.parametrize(
    "lines",
    [
        ["import hf_sparse", KNOWN],
        ["import transformers.quantizers.auto", "import hf_sparse", KNOWN],
        ["import hf_sparse", LOOKED_FOR, KNOWN],
        ["import hf_sparse", "import hf_sparse.registration as ours; ours.register()", KNOWN],
    ],
)
def test_the_format_is_registered(lines: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
