"""`hf-sparse pack`."""

import json
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.completion import FORMATS, one_of
from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Json, Model, OutputDir, Variant, chosen_weights
from hf_sparse.cli.progress import working


def pack(
    context: typer.Context,
    model: Model,
    output_dir: OutputDir,
    variant: Variant = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            autocompletion=one_of(FORMATS),
            help="Format to write: compressed-tensors, which stock transformers loads, or packed, the "
            "smallest, which hf_sparse loads.",
        ),
    ] = "compressed-tensors",
    dequantize: Annotated[
        bool,
        typer.Option(
            "--dequantize",
            help="With --format packed: let it be loaded as a plain model with the rounded weights, to train "
            "it further.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a quantized model as a small directory.

    The format packed takes models that are not quantized, too.

    Try: hf-sparse pack my_model_int8 my_model_packed --format packed
    """
    with plain_errors(context.obj), chosen_weights(model, variant) as model:
        with working("Packing"):
            from hf_sparse.checkpoint.carry_over import carried
            from hf_sparse.checkpoint.formats import require_own, write_format
            from hf_sparse.checkpoint.load import load_model, load_tokenizer
            from hf_sparse.report.sizes import size_table, sizes_as_dict

            if dequantize and form != "packed":
                raise ValueError(
                    f"--dequantize is for --format packed, got {form}; stock transformers has "
                    "CompressedTensorsConfig(dequantize=True) for the other"
                )
            others = carried(model)
            require_own(output_dir, form, others)
            sizes = write_format(
                load_model(model, accept="own", require_class=True),
                output_dir,
                form,
                load_tokenizer(model),
                others,
                dequantize,
            )
        if as_json:
            typer.echo(
                json.dumps({"directory": str(output_dir), "format": form, "sizes": sizes_as_dict(sizes)})
            )
        else:
            console = Console()
            console.print(f"{output_dir}: {form}", highlight=False, markup=False)
            console.print("", size_table(sizes))
