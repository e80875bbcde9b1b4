"""`hf-sparse serve`."""

import json
import socket
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors, require
from hf_sparse.cli.options import Json, Model
from hf_sparse.cli.progress import working


def serve(
    context: typer.Context,
    model: Model,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 is every address of this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")
    ] = 8000,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of CPU threads; by default those of PyTorch.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of texts in a batch, at most.")] = 32,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="How many texts may wait; requests beyond get the status 503.")
    ] = 1024,
    as_json: Json = False,
) -> None:
    """Answer requests over HTTP in the CPU runtime.

    An embedder answers at /v1/embeddings as OpenAI does, a classifier of texts at /predict; /health says when
    it is ready. Texts that wait at the same time are computed in one batch.

    Try: hf-sparse serve my_model_int8 --port 8000
    """
    with plain_errors(context.obj):
        with working("Loading"):
            require("serve", "serve", "fastapi", "uvicorn")
            import torch
            import uvicorn

            from hf_sparse.runtime.server.app import make_app
            from hf_sparse.runtime.server.batches import Batches
            from hf_sparse.runtime.server.served_model import load_served

            # Before the model is loaded, since the port may be taken.
            listening = socket.create_server((host, port))
            if threads is not None:
                torch.set_num_threads(threads)
            served = load_served(model)
            batches = Batches(served.answer, batch_size, max_waiting)
            config = uvicorn.Config(make_app(served, batches), log_level="warning")
        url = f"http://{host}:{listening.getsockname()[1]}"
        if as_json:
            typer.echo(json.dumps({"url": url, "model": served.name, "task": served.task}))
        else:
            Console().print(f"{served.name}: {served.task} at {url}", highlight=False, markup=False)
        # It finishes what it has begun, and then interrupts as it was interrupted.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([listening])
