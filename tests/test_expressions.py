"""Regular expressions that choose weights: matched like those of Python, with a limit on their time."""

import re

import pytest
from torch import nn

from hf_sparse import find_targets
from hf_sparse.expressions import Expression
from hf_sparse.sparsity.layout import Override, _chosen
from hf_sparse.training.model_options import freeze

NAME = "bert.encoder.layer.11.attention.output.dense.weight"
ENDLESS = r"(\w|\.|[a-z])+(\w|\.|[a-z])+[^\w.]"


def stack() -> nn.Module:
    model = nn.Module()
    model.layers_of_the_encoder_with_a_long_name = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
    return model


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dense",
        r"layer\.[01]\.",
        r"layer\.(?:1|11)\.",
        "^bert",
        r"weight\Z",
        "(?i)DENSE",
        "(?<!x)out",
        "(.)\\1",
    ],
)
def test_it_is_found_where_python_finds_it(text: str) -> None:
    found, expected = Expression(text, "include").search(NAME), re.search(text, NAME)
    assert (found and found.span()) == (expected and expected.span())


def test_what_is_no_expression_is_named_with_its_role() -> None:
    with pytest.raises(ValueError, match=r"exclude: 'layer\[' is not a regular expression: "):
        Expression("layer[", "exclude")


@pytest.mark.parametrize(
    "text",
    [
        "(?:a{1000}){1000}",
        "(?:(?:a{,99}){99}){99}",
        "x{0,0}(?:a{1000}){1000}",
        "a{1,20000}",
        "x" * 100_000 + "{20000}",
    ],
)
def test_repeats_that_no_name_is_long_enough_for_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="repeats more often than any name is long") as caught:
        Expression(text, "include")
    assert len(str(caught.value)) < 200


def test_one_that_would_take_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_sparse.expressions._SECONDS", 0.05)
    expression = Expression(ENDLESS, "include")
    with pytest.raises(ValueError, match="takes too long to be looked for in .*; write it without nested"):
        expression.search(2 * NAME)
    # What was used up is not given again, however many names there are.
    with pytest.raises(ValueError, match="takes too long"):
        expression.search(2 * NAME)


@pytest.mark.parametrize("role", ["include", "exclude", "overrides", "freeze"])
def test_every_expression_of_a_recipe_is(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_sparse.expressions._SECONDS", 0.05)
    model = stack()
    calls = {
        "include": lambda: find_targets(model, include=[ENDLESS]),
        "exclude": lambda: find_targets(model, exclude=[ENDLESS]),
        "overrides": lambda: _chosen(find_targets(model), [Override(ENDLESS, 0.5)]),
        "freeze": lambda: freeze(model, [ENDLESS]),
    }
    with pytest.raises(ValueError, match=f"{role}: .* takes too long"):
        calls[role]()


def test_time_in_which_other_programs_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = Expression("dense", "include")
    clock = iter((0.0, 3600.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    pattern.search(NAME)
    assert pattern._left > 4.0
