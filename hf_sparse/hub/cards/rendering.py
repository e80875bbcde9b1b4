"""A card made of facts alone: the same facts give the same card, letter by letter."""

from functools import cache
from importlib.resources import files as resources

import yaml
from huggingface_hub import ModelCard
from jinja2 import Environment, StrictUndefined, Template

from hf_sparse.hub.cards import runs, sentences, tables
from hf_sparse.hub.cards.facts import Facts
from hf_sparse.hub.cards.loading import ways_to_load
from hf_sparse.hub.cards.metadata import metadata_of


def render(facts: Facts) -> ModelCard:
    """Write the card: metadata for the Hub, what the model is, how it is loaded, how it was made."""
    text = _template().render(
        facts=facts,
        say=sentences,
        tables=tables,
        runs=runs,
        ways=ways_to_load(facts),
        as_yaml=lambda recipe: yaml.safe_dump(dict(recipe), sort_keys=False).rstrip(),
    )
    return ModelCard(f"---\n{metadata_of(facts).to_yaml()}\n---\n\n{text.rstrip()}\n")


@cache
def _template() -> Template:
    # Markdown, in which nothing is escaped as in HTML.
    surroundings = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    source = resources("hf_sparse.hub.cards") / "card.md.jinja"
    return surroundings.from_string(source.read_text(encoding="utf-8"))
