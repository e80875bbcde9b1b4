"""`hf-sparse history`."""

import json
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Json, Png


def history(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Output directory of a Trainer, or a checkpoint.")],
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Show what a run has logged: loss, zeros, groups, penalty, rate.

    Try: hf-sparse history out --png history.png
    """
    with plain_errors(context.obj):
        from hf_sparse.report.history import history_figure, print_history, read_log
        from hf_sparse.report.pictures import write_png

        log = read_log(run)
        if png is not None:
            write_png(history_figure(log, run.resolve().name), png)
        if as_json:
            # A loss that is no number has no place in JSON.
            finite = [{key: value if isfinite(value) else None for key, value in row.items()} for row in log]
            typer.echo(json.dumps(finite))
        else:
            print_history(log, Console())
