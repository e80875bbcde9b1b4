"""Models as small directories to hand on, in one of two formats, with their tokenizer."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_sparse.checkpoint.compressed_tensors import is_compressed, save_compressed
from hf_sparse.checkpoint.container import PACKED
from hf_sparse.checkpoint.directories import holds_only, published, require_free
from hf_sparse.checkpoint.packed import save_packed
from hf_sparse.checkpoint.sizes import Sizes, measure_sizes

FORMATS = ("compressed-tensors", "packed")


def publish(
    model: PreTrainedModel,
    directory: str | Path,
    form: str = "compressed-tensors",
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Sizes:
    """Write a model into a directory in one of `FORMATS`; return its sizes.

    A directory of the same format is replaced. Raises `ValueError` for one that holds something else, and as
    `save_compressed` and `save_packed` do.
    """
    require_own(directory, form)
    if form == "packed":
        with published(Path(directory), _is_packed) as staged:
            save_packed(model, staged)
            if tokenizer is not None:
                tokenizer.save_pretrained(staged)
    else:
        save_compressed(model, directory, tokenizer)
    return measure_sizes(model, directory)


def require_own(directory: str | Path, form: str) -> None:
    """Raise `ValueError` for a format that is not known, and unless a directory may be written in it."""
    if form not in FORMATS:
        raise ValueError(f"{form!r} is no format to pack in; choose one of {', '.join(FORMATS)}")
    require_free(Path(directory), _is_packed if form == "packed" else is_compressed)


def _is_packed(directory: Path) -> bool:
    return (directory / PACKED).is_file() and holds_only(directory, PACKED)
