"""A trained model on the Hub: what stock transformers loads, with its card, in one commit."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_sparse import __version__
from hf_sparse.hub.patience import patiently
from hf_sparse.hub.staging import Staged, staged

MESSAGE = "Sparse model, pushed with hf_sparse"
# What a push may leave behind that a later one does not bring again; other files are not ours to delete.
OURS = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "packed/*",
    "pictures/sparsity.png",
    "pictures/training.png",
    "pictures/latency.png",
    "recipe.yaml",
    "hf_sparse_run.json",
    # Of checkpoints that a Trainer has pushed in mid-run; ranges and masks are those of other weights.
    "hf_sparse_state.safetensors",
    "training_args.bin",
)


@dataclass(frozen=True)
class Pushed:
    """What lies on the Hub now: `files` are paths with their sizes in bytes.

    `commit` is the head of the branch, None where nothing was sent because of a dry run. `changed` says
    whether it is a new one. `notes` are what to know of the files.
    """

    repo: str
    url: str
    commit: str | None
    files: tuple[tuple[str, int], ...]
    changed: bool
    notes: tuple[str, ...] = ()


def push(
    directory: str | Path,
    repo: str,
    *,
    packed: bool = False,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
    **card: Any,
) -> Pushed:
    """Publish the model that a trainer saved in `directory` as `repo`, `owner/name` or the name of one's own.

    What is sent is made for it, see `staged`: the weights in a form that stock transformers loads, with
    `packed` the packed file in `packed/` too, tokenizer, recipe, record and card. `card` has the options of
    `write_card`: `dense`, `base_model`, `licence`, `language`. All of it is one commit on the branch
    `revision`, which is made where there is none; files that an earlier push left and this one lacks are
    deleted, those of others stay. What was interrupted is done again from the start, only that files which
    have arrived are not sent again; where all is there already there is no commit.

    `dry_run`: make the files, and ask nobody. Raises `ValueError` for what must not be published, and as
    `upload` does.
    """
    require_pushable(repo, token, dry_run)
    with staged(directory, repo, packed=packed, token=token, **card) as ready:
        if dry_run:
            return not_pushed(ready, repo)
        return upload(ready, repo, private=private, token=token, revision=revision, message=message)


def require_pushable(repo: str, token: str | None = None, dry_run: bool = False) -> None:
    """Raise `ValueError` for a name that the Hub does not take, `PermissionError` if nobody is logged in."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(
            f"{repo!r} is no name for a model on the Hub; write OWNER/NAME, in letters, digits, '-', '_' and "
            "'.'"
        ) from error
    if dry_run:
        return
    if constants.HF_HUB_OFFLINE:
        raise ValueError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it")
    if not (token or get_token()):
        raise PermissionError("nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN")


def not_pushed(ready: Staged, repo: str) -> Pushed:
    """Say what would be pushed."""
    return Pushed(repo, f"{constants.ENDPOINT}/{repo}", None, ready.files, False, ready.notes)


def upload(
    ready: Staged,
    repo: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Send a staged directory in one commit.

    Raises `PermissionError` where the token may not write, `ConnectionError` where the Hub cannot be reached,
    fails or wants no more requests, each after some attempts, `RuntimeError` if somebody else has changed the
    repository meanwhile, and `ValueError` for whatever else the Hub refuses.
    """
    api = HfApi(token=token, library_name="hf_sparse", library_version=__version__)
    url = patiently(lambda: api.create_repo(repo, private=private, exist_ok=True), repo)
    repo = url.repo_id
    if revision not in (None, constants.DEFAULT_REVISION):
        patiently(lambda: api.create_branch(repo, branch=revision, exist_ok=True), repo)
    before, after = patiently(lambda: _commit(api, ready, repo, private, revision, message or MESSAGE), repo)
    return Pushed(repo, str(url), after, ready.files, after != before, ready.notes)


def _commit(
    api: HfApi, ready: Staged, repo: str, private: bool | None, revision: str | None, message: str
) -> tuple[str, str]:
    """Commit what differs; return the head of the branch before and after."""
    head = api.model_info(repo, revision=revision)
    if private and not head.private:
        raise ValueError(
            f"{repo} is there already and public; make it private in its settings on the Hub, or push to "
            "another name"
        )
    paths = [path for path, _ in ready.files]
    additions = [CommitOperationAdd(path, ready.folder / path) for path in paths]
    # A .gitignore there would leave out files, and the model would not be whole. An empty one is none.
    rules = "# nothing is left out\n"
    api.preupload_lfs_files(repo, additions, revision=revision, gitignore_content=rules, free_memory=False)
    gone = _left_over((sibling.rfilename for sibling in head.siblings), paths)
    commit = api.create_commit(
        repo,
        [*(CommitOperationDelete(path) for path in gone), *additions],
        commit_message=message,
        revision=revision,
        # Of what was looked at above.
        parent_commit=head.sha,
    )
    return head.sha, commit.oid


def _left_over(there: Iterable[str], wanted: Iterable[str]) -> list[str]:
    return sorted(path for path in set(there).difference(wanted) if any(_fits(path, ours) for ours in OURS))


def _fits(path: str, pattern: str) -> bool:
    # A * would run over folders.
    return path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)
