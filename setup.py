"""Entry point for setuptools: setup.cfg says all but how libraries get into wheels."""

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

# Its modules that are needed here import the standard library alone.
sys.path.insert(0, str(Path(__file__).parent))
from hf_sparse.native.build import PREBUILT, SWITCH, prebuild
from hf_sparse.native.cache import Unavailable
from hf_sparse.runtime.cpu import machine_paths  # noqa: E402


class BuildPackage(build_py):
    """Compiles the C++ files too where it can; an editable install leaves that to their first use."""

    def run(self) -> None:
        """Copy the package, and put libraries beside it that its modules find."""
        super().run()
        package = Path(self.build_lib) / "hf_sparse"
        # Of an earlier build in the same directory.
        shutil.rmtree(package / PREBUILT, ignore_errors=True)
        if self.editable_mode or os.environ.get(SWITCH) == "0":
            return

        def compile_(library: tuple[str, ...]) -> str | None:
            try:
                prebuild(*library, into=package)
            except Unavailable as reason:
                return str(reason)
            return None

        libraries = [("native/bits.cpp",), ("native/groups.cpp",)]
        libraries += [("runtime/kernels/kernels.cpp", *path.flags) for path in machine_paths()]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reasons = set(pool.map(compile_, libraries)) - {None}
        for reason in sorted(reasons):
            self.warn(f"C++ that is not compiled now is at its first use, or PyTorch does the same: {reason}")
        self.distribution.has_ext_modules = lambda: any((package / PREBUILT).glob("*"))


class BuildWheel(bdist_wheel):
    """Marks a wheel that holds libraries as one of this platform, and any as one of every Python."""

    def run(self) -> None:
        """Build the package before its wheel, since only then it is known what that holds."""
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Return what the wheel fits: Python, ABI, platform."""
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildPackage, "bdist_wheel": BuildWheel})
