"""Stage a push: copy what belongs to a trained model, and nothing else, into a temporary directory."""

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
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hf_sparse.atomic.files import leaves, write_atomically
from hf_sparse.checkpoint.carry_over import carry, module_files
from hf_sparse.checkpoint.companions import companions
from hf_sparse.checkpoint.compressed_tensors import METHOD, save_compressed
from hf_sparse.checkpoint.formats import write_format
from hf_sparse.checkpoint.load import load_model, rounded_as
from hf_sparse.checkpoint.packed.packed_file import PACKED
from hf_sparse.checkpoint.run_record import RECORD, copy_public_record, is_local
from hf_sparse.checkpoint.saved_files import shards_of
from hf_sparse.checkpoint.sidecar import SIDECAR, read_state
from hf_sparse.hub.card.options import CardOptions
from hf_sparse.hub.card.render import CARD, PICTURES, is_generated
from hf_sparse.hub.card.weights import PACKED_FOLDER
from hf_sparse.hub.card.write import write_card
from hf_sparse.hub.leak_check import require_public
from hf_sparse.quantization.quantized_layers import quantized_layers
from hf_sparse.readers import parse_json
from hf_sparse.recipe.saved import RECIPE_FILE

_FIVE_DIGITS = "[0-9]" * 5
# Files of an earlier push that a later one deletes if it does not replace them; all others stay.
OWN_FILES = (
    "model.safetensors",
    f"model-{_FIVE_DIGITS}-of-{_FIVE_DIGITS}.safetensors",
    "model.safetensors.index.json",
    "packed/packed.safetensors",
    "packed/config.json",
    "packed/generation_config.json",
    "pictures/sparsity.png",
    "pictures/training.png",
    "pictures/latency.png",
    "recipe.yaml",
    "hf_sparse_run.json",
    # From checkpoints that a Trainer pushed during the run; their ranges and masks are of other weights.
    "hf_sparse_state.safetensors",
    "training_args.bin",
)
WRITTEN = "was written or changed by somebody, so it is kept"
_NAMES = ("_name_or_path", "name_or_path")
# What cards show; other files in the folder of pictures may be large or compressed.
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")


@dataclass(frozen=True)
class Staged:
    """A directory that is ready to push.

    `files` are the paths in `folder` with their sizes in bytes, `notes` are remarks for the user. The card is
    `generated` unless somebody wrote or changed it.
    """

    folder: Path
    files: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]
    generated: bool


@contextmanager
def staged(
    directory: str | Path,
    repo_id: str,
    *,
    model: PreTrainedModel | None = None,
    packed: bool = False,
    token: str | None = None,
    revision: str | None = None,
    card: CardOptions | None = None,
) -> Iterator[Staged]:
    """Give a temporary directory with everything that a push sends, for stock transformers to load.

    Quantized layers are written in the format of compressed-tensors, or as rounded floats if it cannot hold
    them; a model that is compressed already is copied. With the model go its tokenizer, its recipe, the
    record of its run without local paths, a card with pictures and, with `packed`, the packed file in a
    folder of its own. A README.md in the directory that somebody wrote or changed replaces the card.

    `model` is the model in the directory if it is in memory already; transformers need not have its class.
    `revision` is the branch to push to, `token` the access token if it is not the usual one. Raises
    `ValueError` for a directory without a complete model, for a model that cannot be packed, for a link out
    of the directory, and for a file with a secret or a path of this machine.
    """
    directory = Path(directory)
    if not (directory / CONFIG_NAME).is_file():
        raise ValueError(f"{directory} holds no model: {CONFIG_NAME} is missing; name the directory of one")
    _require_own_files(directory, PICTURES)
    with tempfile.TemporaryDirectory(prefix="hf_sparse_push_") as home:
        # Its writers want a directory that does not exist.
        folder = Path(home) / "model"
        notes = _write_model(directory, folder, packed, model)
        for path in companions(directory):
            if path.name != CARD and not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
        carry(module_files(directory), folder)
        if (directory / SIDECAR).is_file():
            write_atomically(folder / RECIPE_FILE, read_state(directory).recipe.to_yaml().encode())
        copy_public_record(directory, folder)
        for path in folder.rglob("*.json"):
            _forget_names(path)
        branch = None if revision == constants.DEFAULT_REVISION else revision
        write_card(directory, folder, repo_id, model=model, revision=branch, card=card)
        written = _keep_written(directory, folder)
        require_public(folder, directory, token or get_token())
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = tuple((path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths)
        yield Staged(folder, files, (*notes, *written), not written)


def _keep_written(directory: Path, folder: Path) -> tuple[str, ...]:
    """Copy a card that somebody wrote or changed, with the pictures it shows; return notes on it."""
    card = directory / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    if text is None or is_generated(text):
        return ()
    shutil.copyfile(card, folder / CARD)
    shutil.rmtree(folder / PICTURES, ignore_errors=True)
    for picture in _pictures_in(directory / PICTURES):
        if f"{PICTURES}/{picture.name}" in text:
            (folder / PICTURES).mkdir(exist_ok=True)
            shutil.copyfile(picture, folder / PICTURES / picture.name)
    return (f"{card} {WRITTEN}; delete it for a card of what was measured",)


def _write_model(
    directory: Path, folder: Path, packed: bool, model: PreTrainedModel | None
) -> tuple[str, ...]:
    """Write configuration and weights; return notes on them."""
    if model is None and rounded_as(str(directory)) == METHOD:
        if packed:
            raise ValueError(
                f"{directory} is a {METHOD} directory, which cannot be packed; push the model it was made "
                "of, or leave packed out"
            )
        folder.mkdir()
        for path in [*_weights_in(directory), directory / CONFIG_NAME]:
            shutil.copyfile(path, folder / path.name)
        return ()
    model = model or load_model(directory, accept="own", require_class=True)
    notes = _write_weights(model, folder)
    if packed:
        write_format(model, folder / PACKED_FOLDER, "packed")
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
        return (f"The weights are pushed as rounded floats, since {METHOD} cannot hold the model: {reason}",)


def _forget_names(path: Path) -> None:
    """Delete from a JSON file the name of the directory that a model was loaded from."""
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path.name} is not valid JSON ({error}); restore it, or save the model again"
        ) from error
    if _without_local_names(content):
        text = json.dumps(content, indent=2, ensure_ascii=False)
        write_atomically(path, f"{text}\n".encode())


def _without_local_names(content: Any) -> bool:
    """Delete names of local directories at any depth, in place; return whether there were any."""
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


def _require_own_files(directory: Path, pictures: str) -> None:
    """Raise `ValueError` if a file that a push would send from a directory is a link out of it.

    `pictures` is the folder with the pictures of the card.
    """
    single = [directory / name for name in (SAFE_WEIGHTS_NAME, PACKED, SIDECAR, RECORD)]
    for path in [*companions(directory), *single, *_shards(directory), *_pictures_in(directory / pictures)]:
        if leaves(path, directory):
            raise ValueError(
                f"{path} is a link to {path.resolve()}, outside of the directory, and would be pushed "
                "with it; put a copy in its place, or delete it"
            )


def _weights_in(directory: Path) -> list[Path]:
    """Return the weight files that transformers loads, with their index if there are several.

    Raises `ValueError` for an index that is damaged or names files in other directories.
    """
    single = directory / SAFE_WEIGHTS_NAME
    return [single] if single.is_file() else [directory / SAFE_WEIGHTS_INDEX_NAME, *_shards(directory)]


def _pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder, nothing if the folder does not exist."""
    return sorted(path for path in folder.glob("*") if path.is_file() and path.suffix.lower() in _PICTURES)


def _shards(directory: Path) -> list[Path]:
    """Return the weight files that the index of a directory names, nothing without an index."""
    index = directory / SAFE_WEIGHTS_INDEX_NAME
    return [directory / name for name in shards_of(index)] if index.is_file() else []
