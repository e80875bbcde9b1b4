"""Which module belongs where."""

import pytest

from hf_sparse.demo.sections import SECTIONS, section_of


@pytest.mark.parametrize(
    ("module", "section"),
    [
        ("re", "text"),
        ("email.mime.text", "mail and markup"),
        ("concurrent.futures.thread", "concurrency"),
        ("string", "text"),
        ("string.templatelib", "language"),
        ("antigravity", None),
    ],
)
def test_a_package_stands_for_its_modules_unless_one_is_listed(module: str, section: str | None) -> None:
    assert section_of(module) == section


def test_no_module_is_listed_twice() -> None:
    modules = [module for listed in SECTIONS.values() for module in listed.split()]
    assert sorted(modules) == sorted(set(modules))
