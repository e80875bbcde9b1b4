"""Scripts under torchrun: one process runs out of memory, or is killed and started again with the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support import launched
from tests.support.runs import differences

ROOT = Path(__file__).parents[2]


def launch(folder: Path, fault: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--max-restarts", str(restarts), "--monitor-interval", "0.2"]
    # Without this, processes that start again may read the addresses of those that ended.
    fresh = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [*command, launched.__file__, str(folder), fault],
        env={**os.environ, **fresh, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    done = launch(folder, "none")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_process_that_comes_back_goes_on_with_the_others_bit_for_bit(
    straight: Path, tmp_path: Path
) -> None:
    done = launch(tmp_path, "killed", restarts=1)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "happened").exists() and not (straight / "happened").exists()
    ended, expected = (torch.load(place / "end.pt", weights_only=False) for place in (tmp_path, straight))
    assert list(differences(ended, expected)) == []


def test_a_process_without_memory_ends_all_and_the_run_goes_on_later(straight: Path, tmp_path: Path) -> None:
    done = launch(tmp_path, "memory")
    assert done.returncode != 0 and "OutOfMemoryError: the device has no memory left" in done.stderr
    # What was saved before is whole, and nothing is half written.
    left = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    assert left == ["checkpoint-2", "checkpoint-4"]
    done = launch(tmp_path, "none")
    assert done.returncode == 0, done.stderr
    ended, expected = (torch.load(place / "end.pt", weights_only=False) for place in (tmp_path, straight))
    assert list(differences(ended, expected)) == []
