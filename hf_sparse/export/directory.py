"""Exported models as directories, with the configuration and the tokenizer that a pipeline needs."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_sparse.atomic.directories import replacing_directory, require_free
from hf_sparse.checkpoint.carrying import carry
from hf_sparse.checkpoint.companions import holds_only
from hf_sparse.export.onnx import ExportedOnnx, export_onnx
from hf_sparse.export.openvino import MODEL_NAME as OPENVINO_NAME
from hf_sparse.export.openvino import WEIGHTS_NAME as OPENVINO_WEIGHTS
from hf_sparse.export.openvino import export_openvino

ONNX_NAME = "model.onnx"
# What people call a kind of export, and the file that it is recognized by.
KINDS = {"onnx": ONNX_NAME, "openvino": OPENVINO_NAME}


def export_directory(
    model: PreTrainedModel,
    directory: str | Path,
    kind: str = "onnx",
    tokenizer: PreTrainedTokenizerBase | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    carried: Mapping[str, Path] = MappingProxyType({}),
) -> ExportedOnnx:
    """Export a model into a directory, `kind` of file onnx or openvino; return what there is in it.

    `carried` is what goes with it besides, as `checkpoint.carrying.carried` finds it. `inputs`
    and errors are as in `export_onnx`. An earlier export of the same kind is replaced, a directory that holds
    something else refused with `ValueError`.
    """
    directory = Path(directory)
    with replacing_directory(directory, lambda held: _is_ours(held, kind, carried)) as staged:
        if kind == "openvino":
            exported = export_openvino(model, staged, inputs)
        else:
            exported = export_onnx(model, staged / ONNX_NAME, inputs)
        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__]
        # How a model was packed says nothing of an exported one.
        vars(config).pop("quantization_config", None)
        config.save_pretrained(staged)
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        carry(carried, staged)
    return replace(exported, path=directory / KINDS[kind])


def require_own(directory: str | Path, kind: str, carried: Mapping[str, Path] = MappingProxyType({})) -> None:
    """Raise `ValueError` for a kind that is not known, and unless a directory may take an export of it."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of export; choose one of {', '.join(KINDS)}")
    require_free(Path(directory), lambda held: _is_ours(held, kind, carried))


def exported_bytes(exported: ExportedOnnx) -> int:
    """Return the size of an exported model, graph and weights."""
    files = exported.path.parent.glob(f"{exported.path.stem}.*")
    return sum(file.stat().st_size for file in files)


def _is_ours(directory: Path, kind: str, carried: Mapping[str, Path]) -> bool:
    # Not the directory of a model that somebody has put an export into.
    name = KINDS[kind]
    own = (name, f"{name}.data", OPENVINO_WEIGHTS)
    return (directory / name).is_file() and holds_only(directory, *own, carried=carried)
