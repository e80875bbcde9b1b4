"""HTTP around a model: embeddings as OpenAI's clients ask for them, labels as those of Hugging Face do."""

import asyncio
import base64
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from hf_sparse.runtime.server.batches import Batches, Overloaded, TooLarge
from hf_sparse.runtime.server.served_model import Served

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The largest body of a request.
MOST_BYTES = 4 * 2**20

Texts = str | list[str]


class EmbeddingRequest(BaseModel):
    """What a client sends to /v1/embeddings; the name of the model is not looked at."""

    input: Texts = Field(min_length=1)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None


class PredictRequest(BaseModel):
    """What a client sends to /predict."""

    inputs: Texts = Field(min_length=1)


async def answers(batches: Batches[Any], texts: Texts) -> list[Any]:
    """Return the answers to one text or several; if this is canceled, texts that wait are left out."""
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


async def while_there(receive: "Receive", work: Coroutine[Any, Any, Any]) -> Any:
    """Return what `work` returns, or cancel it and return None when the client goes away.

    `receive` gives the events of a request whose body has been read.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in tasks:
            task.cancel()


def limited(app: "ASGIApp") -> "ASGIApp":
    """Return an application that refuses bodies of more than MOST_BYTES."""
    from fastapi import HTTPException

    async def asked(scope: "Scope", receive: "Receive", send: "Send") -> None:
        read = 0

        async def counted() -> "Message":
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST_BYTES:
                raise HTTPException(
                    413, f"the request has more than {MOST_BYTES:,} bytes; send fewer or shorter texts"
                )
            return message

        await app(scope, counted, send)

    return asked


def make_app(served: Served, batches: Batches[Any]) -> "FastAPI":
    """Return the application: /v1/embeddings or /predict, /v1/models and /health.

    Args:
        served: The model.
        batches: Answers its texts; closed when the application ends.
    """
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    key = "input" if served.task == "embeddings" else "inputs"

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        yield
        batches.close()

    async def asked_vectors(body: EmbeddingRequest, request: Request) -> JSONResponse:
        return JSONResponse(await while_there(request.receive, embeddings(served, batches, body)))

    async def asked_labels(body: PredictRequest, request: Request) -> JSONResponse:
        return JSONResponse(await while_there(request.receive, predict(batches, body)))

    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": served.name, "object": "model", "owned_by": "hf_sparse"}]}

    async def health() -> dict[str, Any]:
        return {"status": "ok", "task": served.task, "waiting": batches.waiting()}

    async def too_large(_: Request, error: TooLarge) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 413)

    async def overloaded(_: Request, error: Overloaded) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})

    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        reasons = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        hint = f'send {{"{key}": "a text"}}, or a list of texts there'
        return JSONResponse({"detail": f"{', '.join(reasons)}; {hint}"}, 422)

    handlers: dict[Any, Any] = {
        TooLarge: too_large,
        Overloaded: overloaded,
        RequestValidationError: invalid,
    }
    app = FastAPI(title="hf-sparse serve", lifespan=running, exception_handlers=handlers)
    app.add_middleware(limited)
    if served.task == "embeddings":
        app.add_api_route("/v1/embeddings", asked_vectors, methods=["POST"], response_model=None)
    else:
        app.add_api_route("/predict", asked_labels, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", models)
    app.add_api_route("/health", health)
    return app
