"""HTTP around a model: embeddings as OpenAI's clients ask for them, labels as those of Hugging Face do."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Field
from transformers import pipeline

from hf_sparse.checkpoint.load import load_tokenizer, named_class
from hf_sparse.checkpoint.saved_files import saved_file
from hf_sparse.data.positions import most_tokens
from hf_sparse.runtime.from_disk import load, ready
from hf_sparse.runtime.optimization import transformers_model
from hf_sparse.runtime.server.batches import Batches, Overloaded, TooLarge

if TYPE_CHECKING:
    from fastapi import FastAPI

Texts = str | list[str]


class EmbeddingRequest(BaseModel):
    """What a client sends to /v1/embeddings; the name of the model is not looked at."""

    input: Texts = Field(min_length=1)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None


class PredictRequest(BaseModel):
    """What a client sends to /predict."""

    inputs: Texts = Field(min_length=1)


@dataclass(frozen=True)
class Served:
    """A model by its name, what it answers (`embeddings` or `predict`), and how it answers some texts."""

    name: str
    task: str
    answer: Callable[[list[str]], Sequence[Any]]


def load_served(name_or_path: str) -> Served:
    """Load a model ready to run: a classifier of texts, else an embedder of sentence-transformers.

    Raises:
        ValueError: A classifier has no tokenizer; and as `load` raises it.
        OSError: The model does not exist.
    """
    kind = named_class(name_or_path) or ""
    if not kind.endswith("ForSequenceClassification") or saved_file(name_or_path, "modules.json"):
        return _embedder(name_or_path)
    tokenizer, model = load_tokenizer(name_or_path), load(name_or_path)
    if tokenizer is None:
        raise ValueError(f"{name_or_path} has no tokenizer; save it there with tokenizer.save_pretrained")
    longest = min(tokenizer.model_max_length, most_tokens(model) or tokenizer.model_max_length)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    given = {"truncation": True, "max_length": longest}
    return Served(name_or_path, "predict", lambda texts: classify(texts, batch_size=len(texts), **given))


def _embedder(name_or_path: str) -> Served:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(name_or_path, device="cpu")
    ready(transformers_model(model))

    def answer(texts: list[str]) -> list[tuple[np.ndarray, int]]:
        vectors = model.encode(texts, batch_size=len(texts), show_progress_bar=False)
        tokens = model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
        return list(zip(vectors, map(len, tokens), strict=True))

    return Served(name_or_path, "embeddings", answer)


async def answers(batches: Batches[Any], texts: Texts) -> list[Any]:
    """Return the answers to one text or several."""
    futures = batches.submit([texts] if isinstance(texts, str) else texts)
    return await asyncio.gather(*map(asyncio.wrap_future, futures))


async def embeddings(served: Served, batches: Batches[Any], request: EmbeddingRequest) -> dict[str, Any]:
    """Return the vectors of texts, and the number of their tokens, in the form of OpenAI."""
    found = await answers(batches, request.input)
    plain = request.encoding_format == "float"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": vector.tolist() if plain else base64.b64encode(vector.astype("<f4")).decode(),
        }
        for index, (vector, _) in enumerate(found)
    ]
    tokens = sum(count for _, count in found)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": served.name, "data": data, "usage": usage}


async def predict(batches: Batches[Any], request: PredictRequest) -> list[Any]:
    """Return the labels of a text, best first, or a list of them for several texts."""
    found = await answers(batches, request.inputs)
    return found[0] if isinstance(request.inputs, str) else found


def make_app(served: Served, most: int, waiting: int) -> "FastAPI":
    """Return the application: /v1/embeddings or /predict, /v1/models and /health.

    Args:
        served: The model.
        most: The largest number of texts in a batch.
        waiting: How many texts may wait at once; more are refused with the status 503.
    """
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse

    batches = Batches(served.answer, most, waiting)

    @asynccontextmanager
    async def running(_: "FastAPI") -> AsyncIterator[None]:
        yield
        batches.close()

    async def asked(request: EmbeddingRequest) -> Any:
        return JSONResponse(await embeddings(served, batches, request))

    async def asked_labels(request: PredictRequest) -> Any:
        return JSONResponse(await predict(batches, request))

    async def models() -> Any:
        return {"object": "list", "data": [{"id": served.name, "object": "model", "owned_by": "hf_sparse"}]}

    async def health() -> Any:
        return {"status": "ok", "task": served.task}

    async def refused(_: Any, error: Exception) -> Any:
        status = 503 if isinstance(error, Overloaded) else 413
        return JSONResponse({"detail": str(error)}, status)

    app = FastAPI(title="hf-sparse serve", lifespan=running)
    if served.task == "embeddings":
        app.add_api_route("/v1/embeddings", asked, methods=["POST"])
    else:
        app.add_api_route("/predict", asked_labels, methods=["POST"])
    app.add_api_route("/v1/models", models)
    app.add_api_route("/health", health)
    for kind in (Overloaded, TooLarge):
        app.add_exception_handler(kind, refused)
    return app
