"""The distillation terms of inner states that a recipe can name, each by its field in the recipe."""

from hf_sparse.distillation.features.attention import Attention
from hf_sparse.distillation.features.hidden import Hidden
from hf_sparse.distillation.features.relations import Relations
from hf_sparse.distillation.features.term import FeatureTerm

TERMS: dict[str, type[FeatureTerm]] = {
    "hidden": Hidden,
    "attention": Attention,
    "relations": Relations,
}


def term_names() -> str:
    """Return the names of all terms as messages list them: hidden, attention or relations."""
    *names, last = TERMS
    return f"{', '.join(names)} or {last}"
