"""`hf-sparse report`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors, require
from hf_sparse.cli.options import Json, Runs
from hf_sparse.cli.progress import working


def report(
    context: typer.Context,
    runs: Runs,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            help="Directory for the page. By default RUN/report or, for several runs, report beside them."
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser once it is written.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Draw runs on a page, and show what they logged.

    Writes one HTML file that needs no other, and every figure as PNG: stages, losses, sparsity and learning
    rate over the steps, sparsity by layer, scores against size and latency, recipes. The models that a run
    started from and its teacher are shown too if their directories lie beside it.

    Try: hf-sparse report my_run
    """
    with plain_errors(context.obj):
        require("report", "demo", "matplotlib")
        with working("Reading"):
            from hf_sparse.report.comparison import print_runs
            from hf_sparse.report.history import is_worth_printing, print_history
            from hf_sparse.report.page.write import PAGE, write_page
            from hf_sparse.runs.comparison import trace_runs
            from hf_sparse.runs.measured_run import gather_runs

            place = output_dir or _place(runs)
            lineage = trace_runs(gather_runs(runs))
        with working("Drawing"):
            files = write_page(lineage, place)
        page = place / PAGE
        if as_json:
            typer.echo(json.dumps({"page": f"{page}", "files": files} | lineage.to_dict(), allow_nan=False))
        else:
            console = Console()
            print_runs(lineage.comparison, console)
            log = lineage.lines[0][-1].run.log
            if len(lineage.lines) == 1 and is_worth_printing(log):
                console.print()
                print_history(log, console)
            console.print(
                f"\n{page}, with {len(files) - 1} pictures beside it",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )
        if show:
            typer.launch(page.resolve().as_uri())


def _place(runs: list[Path]) -> Path:
    if len(runs) == 1:
        return runs[0] / "report"
    homes = {run.resolve().parent for run in runs}
    if len(homes) > 1:
        raise ValueError(
            "these runs do not lie beside each other; name a place for their page with --output-dir DIR"
        )
    return homes.pop() / "report"
