"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="Hub name or directory, with --variant if so saved.")]
Out = Annotated[Path, typer.Argument(help="Directory to write.")]
Include = Annotated[
    list[str] | None, typer.Option(metavar="<name>", help="Choose Linears by name or regular expression.")
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="<name>", help="Leave out some of them, likewise.")
]
TextColumn = Annotated[
    list[str] | None, typer.Option(metavar="<name>", help="Column of the texts; give it twice for pairs.")
]
Tokenizer = Annotated[str | None, typer.Option(help="Where it is, if not with the model.")]
Png = Annotated[Path | None, typer.Option(help="Draw it into this file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
