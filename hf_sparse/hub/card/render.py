"""The text of a card: its sections in their order, the same for the same facts letter by letter."""

import hashlib
import re
from collections.abc import Callable

from huggingface_hub import ModelCard

from hf_sparse.hub.card.card_data import Facts
from hf_sparse.hub.card.limits import license_terms, limits
from hf_sparse.hub.card.metadata import metadata_of
from hf_sparse.hub.card.model_section import contents
from hf_sparse.hub.card.runs import runs
from hf_sparse.hub.card.snippets import loading
from hf_sparse.hub.card.speed import speed
from hf_sparse.hub.card.summary import summary
from hf_sparse.hub.card.tables import paragraphs

CARD, PICTURES = "README.md", "pictures"
SECTIONS: dict[str, Callable[[Facts], str]] = {
    "How to load it": loading,
    "What is in it": contents,
    "How fast it is": speed,
    "Limits": limits,
    "How it was made": runs,
    "Licence": license_terms,
}
"""The sections below the summary, by heading; a section whose function returns "" is left out."""

_MARK = "<!-- Written by hf_sparse; sha256 of the text above: {} -->"
_MARKED = re.compile(rf"(.*\n){_MARK.format('([0-9a-f]{64})')}\s*", re.DOTALL)


def render(facts: Facts) -> ModelCard:
    """Return the card: metadata for the Hub, a summary, and every section that the facts give a text for.

    The last line is a comment by which `is_generated` recognizes an unchanged card.
    """
    blocks = [summary(facts)]
    for heading, section in SECTIONS.items():
        if text := section(facts):
            blocks += [f"## {heading}", text]
    # ModelCard may write metadata otherwise than they were given, so the hash is of what it wrote.
    card = str(ModelCard(f"---\n{metadata_of(facts).to_yaml()}\n---\n\n{paragraphs(*blocks)}\n\n"))
    return ModelCard(f"{card}{_MARK.format(_digest(card))}\n")


def is_generated(text: str) -> bool:
    """Return whether a README.md is a card that `render` wrote and nobody has changed since."""
    found = _MARKED.fullmatch(text)
    return found is not None and _digest(found[1]) == found[2]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
