"""Push a trained model to the Hub, with its card, in one commit."""

from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypedDict, Unpack, overload

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    RepoUrl,
    constants,
    get_token,
    hf_hub_url,
)
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, validate_repo_id
from transformers import PreTrainedModel

from hf_sparse import __version__
from hf_sparse.hub.card.options import CardOptions, card_keywords
from hf_sparse.hub.card.render import CARD, PICTURES, is_generated
from hf_sparse.hub.push_directory import OWN_FILES, WRITTEN, Staged, staged
from hf_sparse.hub.retry import with_retries
from hf_sparse.renamed import renamed_keywords, warn_renamed

MESSAGE = "Sparse model, pushed with hf_sparse"


@dataclass(frozen=True)
class Pushed:
    """A model on the Hub after a push.

    Args:
        repo_id: Name of the repository with its owner.
        url: Address of the repository.
        commit: Hash of the head of the branch, None after a dry run.
        files: Paths in the repository with their sizes in bytes.
        changed: Whether the push made a new commit; False if the same files were there already.
        notes: Remarks on the files, such as a card that somebody wrote and that was kept.
    """

    repo_id: str
    url: str
    commit: str | None
    files: tuple[tuple[str, int], ...]
    changed: bool
    notes: tuple[str, ...] = ()

    @property
    def repo(self) -> str:
        """The old name of `repo_id`."""
        warn_renamed("Pushed.repo", "Pushed.repo_id")
        return self.repo_id


class PushOptions(TypedDict, total=False):
    """The keywords of `push` that do not change what it returns."""

    model: PreTrainedModel | None
    packed: bool
    private: bool | None
    token: str | None
    revision: str | None
    commit_message: str | None
    card: CardOptions | None
    dry_run: bool


@overload
def push(
    directory: str | Path,
    repo_id: str,
    *,
    run_as_future: Literal[False] = ...,
    **options: Unpack[PushOptions],
) -> Pushed: ...


@overload
def push(
    directory: str | Path, repo_id: str, *, run_as_future: Literal[True], **options: Unpack[PushOptions]
) -> "Future[Pushed]": ...


@overload
def push(
    directory: str | Path, repo_id: str, *, run_as_future: bool, **options: Unpack[PushOptions]
) -> "Pushed | Future[Pushed]": ...


@card_keywords
@renamed_keywords(repo="repo_id", message="commit_message")
def push(
    directory: str | Path,
    repo_id: str,
    *,
    model: PreTrainedModel | None = None,
    packed: bool = False,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    card: CardOptions | None = None,
    dry_run: bool = False,
    run_as_future: bool = False,
) -> "Pushed | Future[Pushed]":
    """Push the model that a trainer saved in a directory to the Hub, with its card, in one commit.

    What is sent is a copy in a temporary directory: weights that stock transformers loads, tokenizer, recipe,
    record of the run, card. Files of an earlier push that this one lacks are deleted, all others stay. A
    README.md that somebody wrote or changed is never replaced, neither in `directory` nor on the Hub. After
    an interruption push again: files that have arrived are not sent twice, and without a difference no commit
    is made.

    Args:
        directory: Directory of the trained model.
        repo_id: Name on the Hub, `owner/name`, or `name` for a repository of your own.
        model: The model in `directory`, if it is in memory already or transformers does not have its class.
        packed: Also push the packed file, in the folder `packed/`.
        private: Make a new repository private. Raises if the repository exists and is public.
        token: Access token; by default the one of `hf auth login` or `HF_TOKEN`.
        revision: Branch to push to, made if it does not exist. By default `main`.
        commit_message: Title of the commit.
        card: License, language and whatever else on the card is not measured.
        dry_run: Make and check all files, but send nothing.
        run_as_future: Return once all files are made, and send them in a background thread. The directory and
            the model may change from then on.

    Returns:
        What was pushed; with `run_as_future` a future of it.

    Raises:
        ValueError: If the directory holds no complete model, if a file holds a secret or a path of this
            machine, if results on the card are outdated, or if the Hub refuses the push.
        PermissionError: If nobody is logged in, or if the token may not write to the repository.
        ConnectionError: If the Hub cannot be reached, fails, or accepts no more requests, after retries.
        RuntimeError: If somebody else changed the repository in the meantime.
    """
    repo_id = whole_name(repo_id, token, dry_run)
    with ExitStack() as files:
        ready = files.enter_context(
            staged(directory, repo_id, model=model, packed=packed, token=token, revision=revision, card=card)
        )
        kept = files.pop_all()

    def send() -> Pushed:
        with kept:
            if dry_run:
                return not_pushed(ready, repo_id)
            return upload(
                ready,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
            )

    return HfApi().run_as_future(send) if run_as_future else send()


def push_in_background(
    directory: str | Path, repo_id: str, **options: Unpack[PushOptions]
) -> "Future[Pushed]":
    """Return `push(..., run_as_future=True)`, of which this is the old name."""
    warn_renamed("push_in_background(...)", "push(..., run_as_future=True)")
    return push(directory, repo_id, run_as_future=True, **options)


def whole_name(repo_id: str, token: str | None = None, dry_run: bool = False) -> str:
    """Return the name of a repository with its owner; ask the Hub for the owner if it is left out.

    A dry run asks nobody. Raises `ValueError` for a name that the Hub does not accept, `PermissionError` if
    nobody is logged in, and as `with_retries` does.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"{repo_id!r} is not a name for a model on the Hub; write OWNER/NAME, in letters, digits, '-', "
            "'_' and '.'"
        ) from error
    if dry_run:
        return repo_id
    if constants.HF_HUB_OFFLINE:
        raise ValueError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it")
    if not (token or get_token()):
        raise PermissionError("nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN")
    if "/" in repo_id:
        return repo_id
    return f"{with_retries(lambda: _api(token).whoami(), repo_id)['name']}/{repo_id}"


def not_pushed(ready: Staged, repo_id: str) -> Pushed:
    """Return the result of a dry run."""
    return Pushed(repo_id, f"{constants.ENDPOINT}/{repo_id}", None, ready.files, False, ready.notes)


def upload(
    ready: Staged,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> Pushed:
    """Send a staged directory in one commit and return the result; raises as `push` does.

    A card on the Hub that somebody wrote or changed stays.
    """
    api = _api(token)
    url = with_retries(lambda: api.create_repo(repo_id, private=private, exist_ok=True), repo_id)
    if revision is not None and revision != constants.DEFAULT_REVISION:
        with_retries(lambda: api.create_branch(url.repo_id, branch=revision, exist_ok=True), url.repo_id)
    message = commit_message or MESSAGE
    return with_retries(lambda: _commit(api, ready, url, private, revision, message), url.repo_id)


def _api(token: str | None) -> HfApi:
    return HfApi(token=token, library_name="hf_sparse", library_version=__version__)


def _commit(
    api: HfApi, ready: Staged, url: RepoUrl, private: bool | None, revision: str | None, message: str
) -> Pushed:
    """Commit the files of a staged directory that differ from those on the Hub."""
    repo = url.repo_id
    head = api.model_info(repo, revision=revision)
    if private and not head.private:
        raise ValueError(
            f"{repo} is there already and public; make it private in its settings on the Hub, or push to "
            "another name"
        )
    files, notes = ready.files, ready.notes
    there = [sibling.rfilename for sibling in head.siblings or ()]
    gone = _left_over(there, (path for path, _ in files))
    if ready.generated and CARD in there and not is_generated(_read_card(api, head)):
        files = tuple((path, size) for path, size in files if not _of_card(path))
        gone = [path for path in gone if not _of_card(path)]
        notes += (f"{CARD} of {repo} {WRITTEN}; delete it there for a card of what was measured",)
    additions = [CommitOperationAdd(path, ready.folder / path) for path, _ in files]
    # A .gitignore on the Hub would leave out files of the model. An empty text counts as not given.
    rules = "# nothing is left out\n"
    api.preupload_lfs_files(repo, additions, revision=revision, gitignore_content=rules, free_memory=False)
    commit = api.create_commit(
        repo,
        [*(CommitOperationDelete(path) for path in gone), *additions],
        commit_message=message,
        revision=revision,
        # The commit that was looked at above.
        parent_commit=head.sha,
    )
    return Pushed(repo, str(url), commit.oid, files, commit.oid != head.sha, notes)


def _read_card(api: HfApi, head: ModelInfo) -> str:
    """Return the card on the Hub."""
    address = hf_hub_url(head.id, CARD, revision=head.sha, endpoint=api.endpoint)
    answer = get_session().get(address, headers=build_hf_headers(token=api.token))
    hf_raise_for_status(answer)
    return answer.content.decode("utf-8", "replace").replace("\r\n", "\n")


def _of_card(path: str) -> bool:
    return path == CARD or path.startswith(f"{PICTURES}/")


def _left_over(there: Iterable[str], wanted: Iterable[str]) -> list[str]:
    return sorted(
        path for path in set(there).difference(wanted) if any(fnmatchcase(path, own) for own in OWN_FILES)
    )
