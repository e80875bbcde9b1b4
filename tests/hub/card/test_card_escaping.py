"""Whatever texts a card is made of, it has the same headings, links, blocks of code as with harmless ones."""

import ast
import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hf_sparse.hub.card.card_data import Facts, facts_from_json
from hf_sparse.hub.card.escape import argument, code, fenced, hub_link, literal, one_line, plain
from hf_sparse.hub.card.render import is_generated, on_the_hub, render

PUBLISHED = Path(__file__).parents[3] / "model_cards"
FACTS = facts_from_json(next(PUBLISHED.glob("*/facts.json")).read_text(encoding="utf-8"))
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NASTY = (
    "\n\n# Heading\n\n",
    "x\n```\n# Out\n```",
    "~~~",
    "``` ` ``",
    "[here](https://bad.example)",
    "![x](https://bad.example/x.png)",
    "<script>alert(1)</script>",
    "</details>\n\n<h1>x</h1>",
    "a | b\n--- | ---\n",
    "a\\|b\\",
    "- item\n1. item",
    "\u2028# x\x85---\r\n---\n",
    "**bold** _it_ ~~gone~~ $x$ &copy;",
    "https://bad.example www.bad.example",
    "\ud800 half, \u202e turned, \x1b[31m red, \x00",
    '"); import os  # ',
    "'; rm -rf ~ #",
    "---\nlicense: mit\n---",
    "",
    " ",
)
texts = st.one_of(
    st.sampled_from(NASTY),
    st.lists(st.sampled_from(NASTY), min_size=2, max_size=3).map("".join),
    st.text(alphabet=st.sampled_from("\n\r\t `~#*_[]()<>!|\\-=+.:/&;$\"'{}%1aé"), max_size=30),
)
WORDS = ("text", "text_special", "code_inline")
# Parts that are looked up, compared or computed with, and so are never shown as they are given.
KEPT = ("task", "form", "folder", "pictures", "repo_id", "activations")


def changed(value: Any, text: Callable[[str], str], name: str = "") -> Any:
    """Replace every text in the facts of a card, those of recipes included."""
    if name in KEPT:
        return value
    if isinstance(value, str):
        return text(value)
    if dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return type(value)(**{key: changed(part, text, key) for key, part in parts.items()})
    if isinstance(value, Mapping):
        return {key: changed(part, text, key) for key, part in value.items()}
    return tuple(changed(part, text) for part in value) if isinstance(value, tuple | list) else value


def structure(tokens: list[Token]) -> list[str]:
    """List the tokens of a text without its words; code within a line counts as a word."""
    found = []
    for token in tokens:
        if token.children is not None:
            found += structure(token.children)
        elif token.type not in WORDS:
            found.append(f"{token.type} {token.tag}")
    return found


@cache
def harmless() -> list[str]:
    return parsed(changed(FACTS, lambda _: "some words"))


def parsed(facts: Facts) -> list[str]:
    card = str(render(facts))
    assert is_generated(card)
    return structure(MARKDOWN.parse(ModelCard(card).text))


@settings(max_examples=40, deadline=None)
@given(texts)
@example("".join(NASTY))
def test_no_text_changes_what_a_card_is_made_of(text: str) -> None:
    # Of names on the Hub links are made, and this is none.
    assert parsed(changed(FACTS, lambda _: f"{text} !")) == harmless()


@settings(max_examples=25, deadline=None)
@given(texts)
def test_metadata_say_what_was_given_in_one_line(text: str) -> None:
    facts = dataclasses.replace(
        FACTS, license=text, language=(text, "en"), dataset=f"{text}!", base_model=text
    )
    card = str(render(facts))
    head = yaml.safe_load(card.removeprefix("---\n").split("\n---\n")[0])
    assert (head.get("license") or "") == one_line(text) and head["language"] == [one_line(text), "en"]
    dataset = head["model-index"][0]["results"][0]["dataset"]
    assert dataset["name"] == one_line(f"{text}!") and dataset["type"] == "custom"


@settings(max_examples=100, deadline=None)
@given(texts)
def test_an_escaped_text_is_shown_as_it_is(text: str) -> None:
    for shown, kinds in ((plain, WORDS[:2]), (code, WORDS)):
        tokens = MARKDOWN.parse(f"| x |\n| --- |\n| {shown(text)} |\n")
        cells = [token for token in tokens if token.type == "inline"]
        assert len(cells) == 2 and all(token.type in kinds for token in cells[1].children)
        words = "".join(token.content for token in cells[1].children)
        assert words.strip() == (one_line(text) or "(empty)")
        (opened, inline, closed) = MARKDOWN.parse(shown(text))
        assert (opened.type, inline.type, closed.type) == ("paragraph_open", "inline", "paragraph_close")


@settings(max_examples=100, deadline=None)
@given(texts)
def test_a_block_of_code_is_one_block(text: str) -> None:
    (block,) = MARKDOWN.parse(fenced(text, "python"))
    assert block.type == "fence" and block.info == "python"


@settings(max_examples=100, deadline=None)
@given(texts)
def test_a_text_in_code_is_one_literal_and_one_word(text: str) -> None:
    assert ast.literal_eval(literal(text)) == one_line(text)
    assert shlex.split(argument(text)) == [one_line(text)]
    assert "\n" not in literal(text) + argument(text)


@pytest.mark.parametrize("address", ["https://bad.example", "see HTTP://x", "www.bad.example"])
def test_addresses_are_not_made_links_by_readers_that_look_for_them(address: str) -> None:
    assert not re.search(r"(?i)[a-z]://|www[.]", plain(address))


def test_words_that_mean_nothing_in_markdown_stay_as_they_are() -> None:
    for words in ("adamw_torch_fused", "SST-2 (v1.0), 90 %", "café: x/y", "lr 5e-05"):
        assert plain(words) == words
    assert code("a_b*c") == "`a_b*c`"


def test_names_on_the_hub_are_links_and_nothing_else_is() -> None:
    assert hub_link("nyu-mll/glue", "datasets/") == (
        "[nyu-mll/glue](https://huggingface.co/datasets/nyu-mll/glue)"
    )
    assert hub_link("bert-base-uncased") == "[bert-base-uncased](https://huggingface.co/bert-base-uncased)"
    for name in ("a/b)[x](y", "a/b\n# x", "../x", "a/b/c", "a b/c", "a/b?x"):
        assert "](http" not in hub_link(name) and not on_the_hub(name)
