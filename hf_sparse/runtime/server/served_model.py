"""Load the model behind a server, with the function that answers texts: vectors or labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import TextClassificationPipeline

from hf_sparse.checkpoint.load import load_tokenizer, named_class
from hf_sparse.checkpoint.saved_files import saved_file
from hf_sparse.data.positions import most_tokens
from hf_sparse.runtime.from_disk import load, ready
from hf_sparse.runtime.optimization import transformers_model

_CLASSIFIER = "ForSequenceClassification"


@dataclass(frozen=True)
class Served:
    """A model by its name, what it answers (`embeddings` or `predict`), and how it answers some texts."""

    name: str
    task: str
    answer: Callable[[list[str]], Sequence[Any]]


def load_served(name_or_path: str) -> Served:
    """Load a model ready to run: a classifier of texts, or an embedder of sentence-transformers.

    Args:
        name_or_path: A directory, or the name of a model on the Hub. A model without a head counts as an
            embedder, whose vectors are means over tokens.

    Raises:
        ValueError: The model is of another kind, a classifier lacks its tokenizer; and as `load` raises it.
        OSError: The model does not exist.
    """
    kind, modules = named_class(name_or_path) or "", saved_file(name_or_path, "modules.json")
    if kind.endswith(_CLASSIFIER) and modules is None:
        return _classifier(name_or_path)
    # The modules of a cross-encoder hold a classifier, those of an embedder may name the head it once had.
    if kind.endswith(_CLASSIFIER) or (modules is None and "For" in kind):
        library = " of sentence-transformers" if modules else ""
        raise ValueError(
            f"{name_or_path} is a {kind}{library}; only classifiers of single texts and embedders are "
            "served, so call this model in Python"
        )
    return _embedder(name_or_path)


def _classifier(name_or_path: str) -> Served:
    tokenizer = load_tokenizer(name_or_path)
    if tokenizer is None:
        raise ValueError(
            f"{name_or_path} comes without a tokenizer; save it there with tokenizer.save_pretrained"
        )
    model = load(name_or_path)
    longest = min(tokenizer.model_max_length, most_tokens(model) or tokenizer.model_max_length)
    classify = TextClassificationPipeline(model=model, tokenizer=tokenizer, top_k=None)
    given = {"truncation": True, "max_length": longest}
    return Served(name_or_path, "predict", lambda texts: classify(texts, batch_size=len(texts), **given))


def _embedder(name_or_path: str) -> Served:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(name_or_path, device="cpu")
    ready(transformers_model(model))

    def answer(texts: list[str]) -> list[tuple[np.ndarray, int]]:
        """Return the vector of each text and the number of its tokens."""
        vectors = model.encode(texts, batch_size=len(texts), show_progress_bar=False)
        tokens = model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
        return list(zip(vectors, map(len, tokens), strict=True))

    return Served(name_or_path, "embeddings", answer)
