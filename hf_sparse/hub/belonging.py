"""What in a directory belongs to its model: files that lie in it, none that a link or an index fetches."""

from pathlib import Path

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hf_sparse.atomic.files import leaves
from hf_sparse.checkpoint.companions import companions
from hf_sparse.checkpoint.container import PACKED
from hf_sparse.checkpoint.run_record import RECORD
from hf_sparse.checkpoint.saved_files import shards_of
from hf_sparse.checkpoint.sidecar import SIDECAR

# As a card shows them; what else there is of that name may be large, or compressed.
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")


def require_own_files(directory: Path, pictures: str) -> None:
    """Raise `ValueError` if anything that is published of a directory lies outside of it.

    `pictures` is the folder with those of its card.
    """
    single = [directory / name for name in (SAFE_WEIGHTS_NAME, PACKED, SIDECAR, RECORD)]
    for path in [*companions(directory), *single, *_shards(directory), *pictures_in(directory / pictures)]:
        if leaves(path, directory):
            raise ValueError(
                f"{path} is a link to {path.resolve()}, outside of the directory, and would be published "
                "with it; put a copy in its place, or delete it"
            )


def weights_in(directory: Path) -> list[Path]:
    """Return the files of weights that transformers loads, and their index if there are several.

    Raises `ValueError` for an index that is damaged or names what lies elsewhere.
    """
    single = directory / SAFE_WEIGHTS_NAME
    return [single] if single.is_file() else [directory / SAFE_WEIGHTS_INDEX_NAME, *_shards(directory)]


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder, none where there is no folder."""
    return sorted(path for path in folder.glob("*") if path.is_file() and path.suffix.lower() in _PICTURES)


def _shards(directory: Path) -> list[Path]:
    """Return the files that an index names, none where there is no index."""
    index = directory / SAFE_WEIGHTS_INDEX_NAME
    return [directory / name for name in shards_of(index)] if index.is_file() else []
