"""Tables of a card, and the words that several sections share."""

from collections.abc import Sequence

from hf_sparse.hub.card.card_data import Facts

Rows = list[Sequence[str]]


def markdown(rows: Rows) -> str:
    """Return a Markdown table, its first row as the head; empty columns are left out.

    Cells are Markdown already: escape texts of others with `plain` or `code`.
    """
    kept = [index for index in range(len(rows[0])) if index == 0 or any(row[index] for row in rows[1:])]
    lines = [[row[index] for index in kept] for row in rows]
    rule = ["---", *["--:"] * (len(kept) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (lines[0], rule, *lines[1:]))


def paragraphs(*blocks: str) -> str:
    """Return Markdown blocks with an empty line between them; empty blocks are left out."""
    return "\n\n".join(block for block in blocks if block)


def picture(facts: Facts, name: str, description: str) -> str:
    """Return a picture that lies beside the card, nothing if it was not drawn."""
    return f"![{description}](pictures/{name})" if name in facts.pictures else ""


def dense_title(facts: Facts) -> str:
    """Return the name that the card gives to the model it compares with."""
    if facts.dense is None:
        return "model"
    kind = "teacher" if facts.dense.teacher else "model"
    return f"dense {kind}" if facts.dense.is_dense else kind


def layers(facts: Facts) -> str:
    """Return the name of the part of the model that is pruned and quantized."""
    return "decoder" if facts.task == "text-generation" else "encoder"


def percent(share: float) -> str:
    """Return a share as a percentage with one digit."""
    return f"{100 * share:.1f} %"
