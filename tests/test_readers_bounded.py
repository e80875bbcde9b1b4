"""Reading of files that anybody may have written: memory in bounds, short messages."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_sparse import Recipe
from hf_sparse.readers import parse_assignment, parse_json, read_json, read_yaml, read_yaml_file, shortened

# Nine levels of ten aliases each stand for a billion values.
ALIASES = (
    "a: &a ["
    + "x," * 10
    + "]\n"
    + "".join(
        f"{name}: &{name} [{','.join(f'*{before}' for _ in range(10))}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
)
YAML = {
    "aliases": (ALIASES, "aliases are not read; write the value out in line 1"),
    "an anchor alone": ("a: &a 1", "aliases are not read"),
    "a merge of an alias": ("a: 1\n<<: *a", "aliases are not read"),
    "a tag": ("!!python/object:os.system {}", "the tag '.*' is not read; leave it out"),
    "a tag that fits nothing": ("a: !!int ''", "is not read; leave it out"),
    "brackets": ("[" * 3000, "more than 64 levels in line 1, column 65"),
    "braces": ("{" * 3000, "more than 64 levels"),
    "deep blocks": ("\n".join(" " * level + "a:" for level in range(100)), "more than 64 levels in line 64"),
    "a key twice": ("a: 1\nb: 2\na: 3", "'a' is there twice; leave one out in line 3, column 1"),
    "a key twice, inside": ("a: {b: 1, 'b': 2}", "'b' is there twice"),
    "a key that is the same value": ("1: a\n1.0: b", "1.0 is there twice"),
    "no date": ("2024-13-01", "month must be in 1..12"),
    "a number beyond floats": ("9" * 400, "larger than any float"),
    "a number beyond reading": ("9" * 5000, "Exceeds the limit"),
    "half a character": ('"\\ud800"', "surrogates not allowed"),
    "a zero byte": ('"\\0"', "zero byte"),
    "too long": ("a: 1 #" + "x" * 200_000, "is longer than 131072 characters"),
}


@pytest.mark.parametrize("kind", YAML)
def test_yaml_that_is_more_than_it_looks_is_refused(kind: str, tmp_path: Path) -> None:
    text, message = YAML[kind]
    (tmp_path / "recipe.yaml").write_text(text)
    for read in (lambda: read_yaml(text), lambda: read_yaml_file(tmp_path / "recipe.yaml")):
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    assert str(tmp_path / "recipe.yaml") in str(caught.value)


@pytest.mark.parametrize("text", ["a: {b: [1, {c: d}]}", "- - - 1", "a: 1\nb: {a: 1}", "[" * 64 + "]" * 64])
def test_yaml_as_people_write_it_is_read(text: str) -> None:
    assert read_yaml(text)


def test_a_recipe_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("sparsity: {schedule: {final: 0.9}, method: lasso}")
    with pytest.raises(ValueError, match=f"{path}: sparsity.method is 'lasso': choose one of"):
        Recipe.from_yaml(path)
    path.write_bytes(b"sparsity: \xff")
    with pytest.raises(ValueError, match=f"{path} is not text in UTF-8"):
        Recipe.from_yaml(path)


def test_a_value_is_quoted_in_short() -> None:
    assert shortened("short") == "'short'"
    assert shortened("a" * 100_000).startswith("'aaaa") and len(shortened("a" * 100_000)) < 130
    with pytest.raises(ValueError, match="is a long one") as caught:
        raise ValueError(f"{shortened(['x'] * 10_000)} is a long one")
    assert len(str(caught.value)) < 150
    for text in ("a" * 10_000, "a=[" + "b," * 10_000):
        with pytest.raises(ValueError, match="is not") as caught:
            parse_assignment(text)
        assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match="sparsity.method is 'xxx") as caught:
        Recipe.from_dict({"sparsity": {"method": "x" * 10_000}})
    assert len(str(caught.value)) < 400


JSON: dict[str, tuple[bytes, str]] = {
    "brackets": (b"[" * 100_000, "more than 64 levels"),
    "closed brackets": (b"[" * 100 + b"]" * 100, "more than 64 levels"),
    "objects": (b'{"a":' * 100_000, "more than 64 levels"),
    "a number beyond floats": (b"9" * 400, "larger than any float"),
    "a number beyond reading": (b"9" * 5000, "Exceeds the limit"),
    "half a character": (b'"\\ud800"', "surrogates not allowed"),
    "a zero byte": (b'"\\u0000"', "zero byte"),
    "no text": (b'"\xff"', "can't decode byte 0xff"),
    "no JSON": (b"{", "Expecting property name"),
}


@pytest.mark.parametrize("kind", JSON)
def test_json_that_is_more_than_it_looks_is_refused(kind: str, tmp_path: Path) -> None:
    content, message = JSON[kind]
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        parse_json(content)
    with pytest.raises(
        ValueError, match=f"{path} is not a valid record .*{message}.*; write it again"
    ) as caught:
        read_json(path, "record", "write it again")
    assert len(str(caught.value)) < 400


OWN = [
    (b'{"a": 1, "b": 2, "a": 3}', "'a' is there twice", {"a": 3, "b": 2}),
    (b'{"a": NaN}', "NaN is not a number", None),
    (b'{"a": -Infinity}', "-Infinity is not a number", {"a": float("-inf")}),
    (b'{"a": 1e999}', "'1e999' is not a number", {"a": float("inf")}),
]


@pytest.mark.parametrize(("content", "message", "read"), OWN)
def test_what_hf_sparse_writes_has_every_name_once_and_numbers_alone(
    content: bytes, message: str, read: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(content, own=True)
    # Others write losses that are NaN.
    found = parse_json(content)
    assert found == read or read is None


def test_json_that_is_no_table_is_none(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("[]")
    with pytest.raises(
        ValueError,
        match="is not a valid record .it does not hold a table of names and values.; write it again",
    ):
        read_json(path, "record", "write it again")
    path.write_text('{"a": [1, {"b": 1e30}], "c": 1000000000000000019884624838656}')
    assert read_json(path, "record", "write it again", own=True)["a"] == [1, {"b": 1e30}]


@pytest.mark.parametrize("kind", ["aliases", "brackets", "too long"])
def test_it_takes_no_more_memory_than_its_bytes_account_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(YAML[kind][0])
    code = f"""
import resource
from hf_sparse import Recipe
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20), now + (64 << 20)))
try:
    Recipe.from_yaml({str(path)!r})
except ValueError as error:
    print(len(str(error)) < 400)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
