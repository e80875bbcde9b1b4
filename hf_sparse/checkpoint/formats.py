"""The formats for sharing a model: a small directory with its tokenizer, compressed-tensors or packed."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_sparse.atomic.directories import replacing_directory, require_free
from hf_sparse.checkpoint.carry_over import carry
from hf_sparse.checkpoint.companions import holds_only
from hf_sparse.checkpoint.compressed_tensors import is_compressed, save_compressed
from hf_sparse.checkpoint.packed.model import save_packed
from hf_sparse.checkpoint.packed.packed_file import PACKED
from hf_sparse.checkpoint.sizes import Sizes, measure_sizes

FORMATS = ("compressed-tensors", "packed")


def write_format(
    model: PreTrainedModel,
    directory: str | Path,
    form: str = "compressed-tensors",
    tokenizer: PreTrainedTokenizerBase | None = None,
    carried: Mapping[str, Path] = MappingProxyType({}),
    dequantize: bool = False,
) -> Sizes:
    """Write a model into a directory in one of `FORMATS`; return its sizes.

    `dequantize` is for `save_packed`.
    `carried` are other files to copy, as `checkpoint.carry_over.carried` returns them. A directory of the
    same format is replaced. Raises `ValueError` for a directory that holds something else, and as
    `save_compressed` and `save_packed` do.
    """
    require_own(directory, form, carried)
    if form == "packed":
        with replacing_directory(Path(directory), lambda held: _is_packed(held, carried)) as staged:
            sizes = save_packed(model, staged, dequantize=dequantize)
            if tokenizer is not None:
                tokenizer.save_pretrained(staged)
            carry(carried, staged)
        return sizes
    save_compressed(model, directory, tokenizer, carried)
    return measure_sizes(model, directory)


def require_own(directory: str | Path, form: str, carried: Mapping[str, Path] = MappingProxyType({})) -> None:
    """Raise `ValueError` for an unknown format, and for a directory that may not be replaced by it."""
    if form not in FORMATS:
        raise ValueError(f"{form!r} is not a format to pack in; choose one of {', '.join(FORMATS)}")
    is_ours = _is_packed if form == "packed" else is_compressed
    require_free(Path(directory), lambda held: is_ours(held, carried))


def _is_packed(directory: Path, carried: Mapping[str, Path]) -> bool:
    return (directory / PACKED).is_file() and holds_only(directory, PACKED, carried=carried)
