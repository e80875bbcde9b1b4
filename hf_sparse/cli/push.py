"""`hf-sparse push`."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hf_sparse.cli.errors import plain_errors
from hf_sparse.cli.options import Json
from hf_sparse.cli.waiting import working

if TYPE_CHECKING:
    from hf_sparse.hub.pushing import Pushed


def push(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="What a trainer or a command wrote.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub.")],
    packed: Annotated[bool, typer.Option("--packed", help="The packed file too, in packed/.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Hide it from others, if it is new.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; main otherwise.")] = None,
    message: Annotated[str | None, typer.Option(help="Title of the commit.")] = None,
    dense: Annotated[
        Path | None, typer.Option(help="Run of the dense model, for the card to compare with.")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="On the card: what it was made of.")] = None,
    licence: Annotated[str | None, typer.Option(help="On the card, such as apache-2.0.")] = None,
    language: Annotated[str | None, typer.Option(help="On the card, such as en.")] = None,
    # Hidden since help is to fit a screen.
    variant: Annotated[str | None, typer.Option(hidden=True)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files, send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Publish a model on the Hub, as transformers loads it.

    With its card, recipe and tokenizer, in one commit; run again, it sends what is missing.

    Try: hf-sparse push my_model_int8 OWNER/NAME --packed --dry-run
    """
    with plain_errors(context.obj), ExitStack() as until_sent:
        with working("Preparing"):
            from hf_sparse.checkpoint.variants import with_variant
            from hf_sparse.hub.cards.options import CardOptions
            from hf_sparse.hub.pushing import not_pushed, upload, whole_name
            from hf_sparse.hub.staging import staged
            from hf_sparse.training.loading import load_to_publish

            repo = whole_name(repo, dry_run=dry_run)
            card = CardOptions(license=licence, language=language, base_model=base_model, dense=dense)
            model = None
            if variant is not None:
                with with_variant(str(directory), variant) as view:
                    model = load_to_publish(view)
            ready = until_sent.enter_context(
                staged(directory, repo, model=model, packed=packed, revision=revision, card=card)
            )
        if dry_run:
            pushed = not_pushed(ready, repo)
        else:
            pushed = upload(ready, repo, private=private or None, revision=revision, commit_message=message)
        if as_json:
            files = [{"path": path, "bytes": count} for path, count in pushed.files]
            typer.echo(json.dumps({"repo": pushed.repo_id} | vars(pushed) | {"files": files}))
        else:
            _show(pushed, Console())


def _show(pushed: "Pushed", console: Console) -> None:
    from rich.markup import escape

    from hf_sparse.report.tables import narrow_table, size

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
    # Whole, for it to be copied.
    console.print(said, markup=False, highlight=False, soft_wrap=True)
