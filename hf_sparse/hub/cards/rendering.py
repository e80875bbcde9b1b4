"""A card made of facts alone: the same facts give the same card, letter by letter."""

import hashlib
import re
from functools import cache
from importlib.resources import files as resources

import yaml
from huggingface_hub import ModelCard
from jinja2 import Environment, StrictUndefined, Template

from hf_sparse.hub.cards import runs, sentences, tables
from hf_sparse.hub.cards.escaping import code, fenced, plain
from hf_sparse.hub.cards.facts import Facts
from hf_sparse.hub.cards.loading import ways_to_load
from hf_sparse.hub.cards.metadata import metadata_of

_MARK = "<!-- Written by hf_sparse; sha256 of the text above: {} -->"
_MARKED = re.compile(rf"(.*\n){_MARK.format('([0-9a-f]{64})')}\s*", re.DOTALL)


def render(facts: Facts) -> ModelCard:
    """Write the card: metadata for the Hub, what the model is, how it is loaded, how it was made.

    Its last line is a comment that `is_generated` knows it by.
    """
    text = _template().render(
        facts=facts,
        say=sentences,
        tables=tables,
        runs=runs,
        ways=ways_to_load(facts),
        plain=plain,
        code=code,
        fenced=fenced,
        as_yaml=lambda recipe: yaml.safe_dump(dict(recipe), sort_keys=False).rstrip(),
    )
    # As the card itself writes its metadata, which may not be how they were given.
    card = str(ModelCard(f"---\n{metadata_of(facts).to_yaml()}\n---\n\n{text.rstrip()}\n\n"))
    return ModelCard(f"{card}{_MARK.format(_digest(card))}\n")


def is_generated(text: str) -> bool:
    """Say whether a README.md is a card that `render` wrote and nobody has changed since."""
    found = _MARKED.fullmatch(text)
    return found is not None and _digest(found[1]) == found[2]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _template() -> Template:
    # Markdown, in which nothing is escaped as in HTML.
    surroundings = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    source = resources("hf_sparse.hub.cards") / "card.md.jinja"
    return surroundings.from_string(source.read_text(encoding="utf-8"))
