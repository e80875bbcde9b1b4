"""What is published of a trained model: a directory made for it, and nothing beside that."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_token
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from hf_sparse.atomic.files import write_atomically
from hf_sparse.checkpoint.carrying import carry, module_files
from hf_sparse.checkpoint.companions import companions
from hf_sparse.checkpoint.compressed_tensors import METHOD, save_compressed
from hf_sparse.checkpoint.loading import load_model, rounded_as
from hf_sparse.checkpoint.publishing import publish
from hf_sparse.checkpoint.run_record import copy_public_record, is_local
from hf_sparse.checkpoint.sidecar import SIDECAR, read_state
from hf_sparse.hub.belonging import pictures_in, require_own_files, weights_in
from hf_sparse.hub.card import CARD, PICTURES, write_card
from hf_sparse.hub.cards.rendering import is_generated
from hf_sparse.hub.cards.weights import PACKED_FOLDER
from hf_sparse.hub.scanning import require_public
from hf_sparse.quantization.layers import quantized_layers
from hf_sparse.reading import parse_json

RECIPE = "recipe.yaml"
WRITTEN = "was written or changed by somebody, so it is kept"
_NAMES = ("_name_or_path", "name_or_path")


@dataclass(frozen=True)
class Staged:
    """A directory to publish: `files` are paths in it with their sizes in bytes, `notes` what to know.

    Its card is `generated` unless somebody wrote or changed it.
    """

    folder: Path
    files: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]
    generated: bool


@contextmanager
def staged(
    directory: str | Path,
    repo: str,
    *,
    model: PreTrainedModel | None = None,
    packed: bool = False,
    token: str | None = None,
    revision: str | None = None,
    **card: Any,
) -> Iterator[Staged]:
    """Give a temporary directory with all that is published of a model, made for stock transformers to load.

    Quantized layers lie there as compressed-tensors has them, or as rounded floats where that cannot hold
    them; a model that is compressed already is taken as it is. With it its tokenizer, its recipe, the record
    of its run without local names, a card with pictures and, with `packed`, the packed file in a folder of
    its own. A README.md in the directory that somebody wrote or changed is taken in place of the card.

    `model` is the one in the directory if it is loaded already; it may be of a class that transformers does
    not have. `revision` is the branch it is for; `card` are options of `write_card`; `token` is the one in
    use, if it is no usual one. Raises `ValueError` for a directory without a model or with a part of one, for
    what cannot be packed, for a link that leaves the directory, and for anything secret or local among the
    files.
    """
    directory = Path(directory)
    if not (directory / CONFIG_NAME).is_file():
        raise ValueError(
            f"{directory} holds no model, there is no {CONFIG_NAME} in it; name the directory of one"
        )
    require_own_files(directory, PICTURES)
    with tempfile.TemporaryDirectory(prefix="hf_sparse_push_") as home:
        # Not yet there, as those who write it want it.
        folder = Path(home) / "model"
        notes = _write_model(directory, folder, packed, model)
        for path in companions(directory):
            if path.name != CARD and not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
        carry(module_files(directory), folder)
        if (directory / SIDECAR).is_file():
            write_atomically(folder / RECIPE, read_state(directory).recipe.to_yaml().encode())
        copy_public_record(directory, folder)
        for path in folder.rglob("*.json"):
            _forget_names(path)
        branch = None if revision == constants.DEFAULT_REVISION else revision
        write_card(directory, folder, repo, model=model, revision=branch, **card)
        written = _keep_written(directory, folder)
        require_public(folder, directory, token or get_token())
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = tuple((path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths)
        yield Staged(folder, files, (*notes, *written), not written)


def _keep_written(directory: Path, folder: Path) -> tuple[str, ...]:
    """Take over a card that was not made, with the pictures it shows; return what to know of that."""
    card = directory / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    if text is None or is_generated(text):
        return ()
    shutil.copyfile(card, folder / CARD)
    shutil.rmtree(folder / PICTURES, ignore_errors=True)
    for picture in pictures_in(directory / PICTURES):
        if f"{PICTURES}/{picture.name}" in text:
            (folder / PICTURES).mkdir(exist_ok=True)
            shutil.copyfile(picture, folder / PICTURES / picture.name)
    return (f"{card} {WRITTEN}; delete it for a card of what was measured",)


def _write_model(
    directory: Path, folder: Path, packed: bool, model: PreTrainedModel | None
) -> tuple[str, ...]:
    """Write configuration and weights; return what to know of them."""
    if model is None and rounded_as(str(directory)) == METHOD:
        if packed:
            raise ValueError(
                f"{directory} is a {METHOD} directory, which cannot be packed; push the model it was made "
                "of, or leave packed out"
            )
        folder.mkdir()
        for path in [*weights_in(directory), directory / CONFIG_NAME]:
            shutil.copyfile(path, folder / path.name)
        return ()
    model = model or load_model(directory, accept="own", require_class=True)
    notes = _write_weights(model, folder)
    if packed:
        publish(model, folder / PACKED_FOLDER, "packed")
    return notes


def _write_weights(model: PreTrainedModel, folder: Path) -> tuple[str, ...]:
    layers = quantized_layers(model)
    if not layers:
        model.save_pretrained(folder)
        return ()
    try:
        save_compressed(model, folder)
        return ()
    except ImportError as error:
        raise ValueError(
            'weights of these bits are written with compressed-tensors; run pip install "hf_sparse[publish]"'
        ) from error
    except ValueError as error:
        state = model.state_dict()
        for name, layer in layers.items():
            weight = layer.weight().t() if layer.transposed else layer.weight()
            state[f"{name}.weight"] = weight.to(state[f"{name}.weight"].dtype).contiguous()
        model.save_pretrained(folder, state_dict=state)
        reason = str(error).split(";")[0]
        return (
            f"Published as floats that are rounded already, since {METHOD} cannot hold the model: {reason}",
        )


def _forget_names(path: Path) -> None:
    """Take out of a JSON file which directory a model was loaded from."""
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON ({error}); restore it, or save the model again") from error
    if _without_local_names(content):
        text = json.dumps(content, indent=2, ensure_ascii=False)
        write_atomically(path, f"{text}\n".encode())


def _without_local_names(content: Any) -> bool:
    """Delete such names at any depth, in place; return whether there were any."""
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    found = [_without_local_names(value) for value in inner if isinstance(value, dict | list)]
    local = [
        name
        for name in _NAMES
        if isinstance(content, dict) and isinstance(content.get(name), str) and _is_here(content[name])
    ]
    for name in local:
        del content[name]
    return bool(local) or any(found)


def _is_here(name: str) -> bool:
    return is_local(name) or Path(name).exists()
