"""What other packages are to know of this one they know whichever package is imported first."""

import subprocess
import sys
from runpy import run_module

import pytest
from peft import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora import Linear, LoraLayer

from hf_sparse.checkpoint.packed.hf_quantizer import SUPPORTED
from hf_sparse.checkpoint.packed.packed_file import METHOD

KNOWN = (
    f"from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING as known; assert {METHOD!r} in known"
)
ADAPTERS = (
    "from peft import PEFT_TYPE_TO_CONFIG_MAPPING as known; from hf_sparse import SparseLoraConfig as ours; "
    "assert known['SPARSE_LORA'] is ours"
)
LOOKED_FOR = "import importlib.util; importlib.util.find_spec('transformers.quantizers.auto')"


@pytest.mark.skipif(not SUPPORTED, reason="transformers before 5.23 has no hooks for it")
@pytest.mark.parametrize(
    "lines",
    [
        ["import hf_sparse", KNOWN],
        ["import transformers.quantizers.auto", "import hf_sparse", KNOWN],
        ["import hf_sparse", LOOKED_FOR, KNOWN],
        ["import hf_sparse", "import hf_sparse.register as ours; ours.register()", KNOWN],
    ],
)
def test_the_format_is_registered(lines: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "first", ["import hf_sparse", "import peft, hf_sparse", "from hf_sparse import SparseLoraConfig"]
)
def test_adapters_are_registered(first: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"{first}\n{ADAPTERS}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_peft_adapters_alone_are_missing() -> None:
    program = "import sys; sys.modules['peft'] = None\nimport hf_sparse, hf_sparse.adapters.lora"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 'adapters need peft 0.20 or later; run pip install "hf_sparse[peft]"' in done.stderr


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_an_old_peft_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in (Linear, LoraLayer):
        monkeypatch.delattr(owner, "lora_variants")
    monkeypatch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, "SPARSE_LORA")
    run_module("hf_sparse.adapters.register")
    assert "SPARSE_LORA" not in PEFT_TYPE_TO_CONFIG_MAPPING
    with pytest.raises(ImportError, match=r'peft 0.20 or later; run pip install -U "hf_sparse\[peft\]"'):
        run_module("hf_sparse.adapters.lora")
