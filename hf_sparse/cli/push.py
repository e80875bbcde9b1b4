"""`hf-sparse push`."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Json, Variant
from hf_sparse.cli.progress import working

if TYPE_CHECKING:
    from hf_sparse.hub.upload import Pushed


def push(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Argument(help="Saved model: a directory that a trainer or a command wrote.")
    ],
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub, as OWNER/NAME.")],
    variant: Variant = None,
    packed: Annotated[
        bool, typer.Option("--packed", help="Push the packed file as well, in the folder packed/.")
    ] = False,
    private: Annotated[
        bool,
        typer.Option("--private", help="Make the repository private, if it is new."),
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to, made if it does not exist. By default main.")
    ] = None,
    commit_message: Annotated[
        str | None,
        typer.Option(help='Title of the commit. By default "Sparse model, pushed with hf_sparse".'),
    ] = None,
    dense: Annotated[
        Path | None,
        typer.Option(help="Output directory of the dense model's run, which the card compares with."),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(help="Model that this one was made from, for the card. By default as recorded."),
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="License for the card, as the Hub writes it, such as apache-2.0.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language of the texts for the card, such as en.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files and send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Push a model to the Hub, as transformers loads it.

    Card, recipe and tokenizer go with it, in one commit. When the command is run again, it sends only what
    the Hub lacks.

    Try: hf-sparse push my_model_int8 OWNER/NAME --packed --dry-run
    """
    with plain_errors(context.obj), ExitStack() as until_sent:
        with working("Preparing"):
            from hf_sparse.checkpoint.load import load_model
            from hf_sparse.checkpoint.variants import with_variant
            from hf_sparse.hub.card.options import CardOptions
            from hf_sparse.hub.push_directory import staged
            from hf_sparse.hub.upload import not_pushed, upload, whole_name

            repo = whole_name(repo_id, dry_run=dry_run)
            card = CardOptions(license=license, language=language, base_model=base_model, dense=dense)
            model = None
            if variant is not None:
                with with_variant(str(directory), variant) as view:
                    model = load_model(view, accept="own", require_class=True)
            ready = until_sent.enter_context(
                staged(directory, repo, model=model, packed=packed, revision=revision, card=card)
            )
        if dry_run:
            pushed = not_pushed(ready, repo)
        else:
            pushed = upload(
                ready, repo, private=private or None, revision=revision, commit_message=commit_message
            )
        if as_json:
            files = [{"path": path, "bytes": count} for path, count in pushed.files]
            typer.echo(json.dumps({"repo": pushed.repo_id} | vars(pushed) | {"files": files}))
        else:
            _show(pushed, Console())


def _show(pushed: "Pushed", console: Console) -> None:
    from rich.markup import escape

    from hf_sparse.report.tables import narrow_table
    from hf_sparse.units import size

    table = narrow_table("file", "size")
    for path, count in pushed.files:
        table.add_row(escape(path), size(count))
    table.add_section()
    table.add_row(f"{len(pushed.files)} files", size(sum(count for _, count in pushed.files)))
    console.print(table)
    for note in pushed.notes:
        console.print(note, markup=False, highlight=False)
    if pushed.commit is None:
        said = f"Nothing was sent; it would be {pushed.url}"
    elif pushed.changed:
        said = f"Pushed: {pushed.url} ({pushed.commit[:7]})"
    else:
        said = f"All of it is there already, nothing was changed: {pushed.url}"
    # On one line, so that it can be copied.
    console.print(said, markup=False, highlight=False, soft_wrap=True)
