"""`hf-sparse export`."""

import json
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.completion import EXPORTS, one_of
from hf_sparse.cli.errors import plain_errors, require
from hf_sparse.cli.options import Json, Model, Out
from hf_sparse.cli.waiting import working


def export(
    context: typer.Context,
    model: Model,
    out: Out,
    to: Annotated[str, typer.Option(autocompletion=one_of(EXPORTS), help="onnx or openvino.")],
    as_json: Json = False,
) -> None:
    """Write a model for ONNX Runtime or OpenVINO.

    In integers where it is quantized, in single precision elsewhere; with configuration and tokenizer.

    Try: hf-sparse export my_model_int8 my_model_onnx --to onnx
    """
    with plain_errors(context.obj):
        with working("Exporting"):
            require("export", "export", "onnx", "onnx_ir", "onnxscript", "onnxruntime")
            if to == "openvino":
                require("export to OpenVINO", "openvino", "openvino")
            from hf_sparse.checkpoint.carrying import carried
            from hf_sparse.checkpoint.loading import load_tokenizer
            from hf_sparse.export.directory import export_directory, exported_bytes, require_own
            from hf_sparse.report.tables import size
            from hf_sparse.training.loading import load_to_publish

            others = carried(model)
            require_own(out, to, others)
            # Files of half precision are for accelerators; these are for processors.
            loaded = load_to_publish(model).float()
            exported = export_directory(loaded, out, to, load_tokenizer(model), carried=others)
        if as_json:
            found = vars(exported) | {"path": str(exported.path), "bytes": exported_bytes(exported)}
            typer.echo(json.dumps(found))
        else:
            Console().print(f"{exported}\n{size(exported_bytes(exported))}", highlight=False, markup=False)
