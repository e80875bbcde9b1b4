"""`hf-sparse compare`."""

import json

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors, require
from hf_sparse.cli.options import Json, Png, Runs
from hf_sparse.cli.progress import working


def compare(
    context: typer.Context,
    runs: Runs,
    png: Png = None,
    as_json: Json = False,
) -> None:
    """Compare the zeros, scores, sizes and settings of runs.

    Scores are compared only if metric, task and examples are the same, latencies only if the machine is.

    Try: hf-sparse compare my_runs --png compared.png
    """
    with plain_errors(context.obj):
        if png is not None:
            require("--png", "demo", "matplotlib")
        with working("Reading"):
            from hf_sparse.report.comparison import print_differences, print_runs
            from hf_sparse.report.page.scatter import write_scatter
            from hf_sparse.report.pictures import require_png
            from hf_sparse.runs.comparison import compare_runs, comparison_as_dict
            from hf_sparse.runs.measured_run import gather_runs

            if png is not None:
                require_png(png)
            comparison = compare_runs(gather_runs(runs))
        if png is not None:
            write_scatter(comparison, png)
        if as_json:
            typer.echo(json.dumps(comparison_as_dict(comparison), allow_nan=False))
        else:
            print_runs(comparison, Console())
            print_differences(comparison, Console())
