"""YAML and dotted assignments as people write them."""

import math

import pytest
import yaml

from hf_sparse.readers import parse_assignment, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        ("-2.5e+1", -25.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("0.9", 0.9),
        ("-.inf", -math.inf),
        ("1000", 1000),
        ("100_000", 100_000),
        ("0", 0),
        ("-3", -3),
        ("50%", "50%"),
        ("1x4", "1x4"),
        ("true", True),
        ("null", None),
    ],
)
def test_numbers_are_read_as_numbers(text: str, value: object) -> None:
    read = read_yaml(f"value: {text}")["value"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["2:4", "1:30.5", "010", "e5", "1x4", "0x10"])
def test_what_is_no_number_stays_text(text: str) -> None:
    assert read_yaml(f"value: {text}") == {"value": text}


def test_a_quoted_number_stays_text() -> None:
    assert read_yaml("value: '1e-4'") == {"value": "1e-4"}


def test_an_empty_text_is_an_empty_mapping() -> None:
    assert read_yaml("") == {}
    assert read_yaml("# only a comment\n") == {}


def test_malformed_yaml_is_a_value_error_that_shows_it() -> None:
    with pytest.raises(ValueError, match=r"(?s)'sparsity: \[1' is not readable as YAML: .*expected"):
        read_yaml("sparsity: [1")


def test_other_users_of_pyyaml_keep_their_numbers() -> None:
    assert yaml.safe_load("1e-4") == "1e-4"
    assert yaml.safe_load("2:4") == 124


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("sparsity.schedule.final=0.85", ["sparsity", "schedule", "final"], 0.85),
        ("distillation=null", ["distillation"], None),
        ("distillation=", ["distillation"], None),
        (" sparsity.pattern = 1x4 ", ["sparsity", "pattern"], "1x4"),
        ("sparsity.include=[query, key]", ["sparsity", "include"], ["query", "key"]),
        ("sparsity.schedule={final: 5e-1}", ["sparsity", "schedule"], {"final": 0.5}),
        ("sparsity.exclude=['a=b']", ["sparsity", "exclude"], ["a=b"]),
    ],
)
def test_an_assignment_is_a_path_and_a_value(text: str, path: list[str], value: object) -> None:
    assert parse_assignment(text) == (path, value)


@pytest.mark.parametrize("text", ["sparsity", "", "=0.5", "sparsity..final=1", ".=1"])
def test_a_text_that_assigns_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an assignment; write it like sparsity.schedule.final=0.85"):
        parse_assignment(text)


def test_a_malformed_value_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"'\[query' is not readable as YAML"):
        parse_assignment("sparsity.include=[query")
