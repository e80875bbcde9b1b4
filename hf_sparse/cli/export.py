"""`hf-sparse export`."""

import json
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.completion import EXPORTS, one_of
from hf_sparse.cli.errors import plain_errors, require
from hf_sparse.cli.options import Json, Model, OutputDir, Variant, chosen_weights
from hf_sparse.cli.progress import working


def export(
    context: typer.Context,
    model: Model,
    output_dir: OutputDir,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            autocompletion=one_of(EXPORTS),
            help="Format to write: onnx, which ONNX Runtime and OpenVINO run, or openvino.",
        ),
    ],
    variant: Variant = None,
    as_json: Json = False,
) -> None:
    """Write a model for ONNX Runtime or OpenVINO.

    Quantized layers are written with int8 products, all others in float32, with configuration and tokenizer
    beside them.

    Try: hf-sparse export my_model_int8 my_model_onnx --format onnx
    """
    with plain_errors(context.obj), chosen_weights(model, variant) as model:
        with working("Exporting"):
            require("export", "export", "onnx", "onnx_ir", "onnxscript", "onnxruntime")
            if form == "openvino":
                require("export to OpenVINO", "openvino", "openvino")
            from hf_sparse.checkpoint.carry_over import carried
            from hf_sparse.checkpoint.load import load_model, load_tokenizer
            from hf_sparse.export.directory import export_directory, exported_bytes, require_own
            from hf_sparse.units import size

            others = carried(model)
            require_own(output_dir, form, others)
            # Half precision is for accelerators; these runtimes are for CPUs.
            loaded = load_model(model, accept="own", require_class=True).float()
            exported = export_directory(loaded, output_dir, form, load_tokenizer(model), carried=others)
        if as_json:
            found = vars(exported) | {"path": str(exported.path), "bytes": exported_bytes(exported)}
            typer.echo(json.dumps(found))
        else:
            Console().print(f"{exported}\n{size(exported_bytes(exported))}", highlight=False, markup=False)
