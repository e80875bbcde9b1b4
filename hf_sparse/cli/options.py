"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="Hub name or directory.")]
Out = Annotated[Path, typer.Argument(help="Directory to write.")]
Include = Annotated[list[str] | None, typer.Option(help="Choose Linears by name or regular expression.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Leave out some of them, likewise.")]
Png = Annotated[Path | None, typer.Option(help="Draw it into this file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
