"""Where a measurement says that it was made."""

import hf_sparse
from hf_sparse.environment import hardware, versions


def test_hardware_and_versions_are_named() -> None:
    assert hardware()["processor"] and hardware()["cores"] >= 1 and hardware()["torch_threads"] >= 1
    assert versions()["hf_sparse"] == hf_sparse.__version__
    assert {"python", "torch", "transformers"} <= versions().keys()
    assert "rich" not in versions() and versions("rich", "no_such_package").keys() - versions().keys() == {
        "rich"
    }
