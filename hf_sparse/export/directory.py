"""Export models to directories with the configuration and the tokenizer that a pipeline needs."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_sparse.atomic.directories import replacing_directory, require_free
from hf_sparse.checkpoint.carry_over import carry
from hf_sparse.checkpoint.companions import holds_only
from hf_sparse.export.onnx import ExportedOnnx, export_onnx
from hf_sparse.export.openvino import MODEL_NAME as OPENVINO_NAME
from hf_sparse.export.openvino import WEIGHTS_NAME as OPENVINO_WEIGHTS
from hf_sparse.export.openvino import export_openvino

ONNX_NAME = "model.onnx"
# The kinds of export, each with the file that shows it.
KINDS = {"onnx": ONNX_NAME, "openvino": OPENVINO_NAME}


def export_directory(
    model: PreTrainedModel,
    directory: str | Path,
    kind: str = "onnx",
    tokenizer: PreTrainedTokenizerBase | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    carried: Mapping[str, Path] = MappingProxyType({}),
) -> ExportedOnnx:
    """Export a model to a directory.

    Args:
        model: A float32 model.
        directory: The directory to write. An earlier export of the same kind is replaced.
        kind: onnx or openvino.
        tokenizer: The tokenizer to save beside the model.
        inputs: An example batch, as in `export_onnx`.
        carried: Other files to copy, as `checkpoint.carry_over.carried` finds them.

    Returns:
        The file that was written, with its inputs, outputs and operators.

    Raises:
        ValueError: The directory holds anything else, and as in `export_onnx`.
    """
    directory = Path(directory)
    with replacing_directory(directory, lambda held: _is_ours(held, kind, carried)) as staged:
        if kind == "openvino":
            exported = export_openvino(model, staged, inputs)
        else:
            exported = export_onnx(model, staged / ONNX_NAME, inputs)
        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__]
        # It describes the packed files that the model was loaded from.
        vars(config).pop("quantization_config", None)
        config.save_pretrained(staged)
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        carry(carried, staged)
    return replace(exported, path=directory / KINDS[kind])


def require_own(directory: str | Path, kind: str, carried: Mapping[str, Path] = MappingProxyType({})) -> None:
    """Raise `ValueError` for an unknown kind, and for a directory that holds anything but such an export."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of export; choose one of {', '.join(KINDS)}")
    require_free(Path(directory), lambda held: _is_ours(held, kind, carried))


def exported_bytes(exported: ExportedOnnx) -> int:
    """Return the bytes of an exported model, graph and weights together."""
    files = exported.path.parent.glob(f"{exported.path.stem}.*")
    return sum(file.stat().st_size for file in files)


def _is_ours(directory: Path, kind: str, carried: Mapping[str, Path]) -> bool:
    # A directory that also holds other files is the directory of a model.
    name = KINDS[kind]
    own = (name, f"{name}.data", OPENVINO_WEIGHTS)
    return (directory / name).is_file() and holds_only(directory, *own, carried=carried)
