"""A trained model on the Hub: what stock transformers loads, with its card, in one commit."""

from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

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
from hf_sparse.hub.card import CARD, PICTURES
from hf_sparse.hub.cards.rendering import is_generated
from hf_sparse.hub.patience import patiently
from hf_sparse.hub.staging import WRITTEN, Staged, staged

MESSAGE = "Sparse model, pushed with hf_sparse"
_FIVE_DIGITS = "[0-9]" * 5
# What a push may leave behind that a later one does not bring again; other files are not ours to delete.
OURS = (
    "model.safetensors",
    f"model-{_FIVE_DIGITS}-of-{_FIVE_DIGITS}.safetensors",
    "model.safetensors.index.json",
    "packed/packed.safetensors",
    "packed/config.json",
    "packed/generation_config.json",
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
    model: PreTrainedModel | None = None,
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
    `packed` the packed file in `packed/` too, tokenizer, recipe, record and card. `model` is the one in the
    directory if it is loaded already. `card` has the options of `write_card`: `dense`, `base_model`,
    `licence`, `language`. All of it is one commit on the branch `revision`, which is made where there is
    none; files that an earlier push left and this one lacks are deleted, those of others stay. A README.md
    that somebody wrote or changed is never replaced by a card, neither in the directory nor on the Hub. What
    was interrupted is done again from the start, only that files which have arrived are not sent again; where
    all is there already there is no commit.

    `dry_run`: make the files, and ask nobody. Raises `ValueError` for what must not be published, and as
    `upload` does.
    """
    repo = whole_name(repo, token, dry_run)
    with staged(directory, repo, model=model, packed=packed, token=token, revision=revision, **card) as ready:
        if dry_run:
            return not_pushed(ready, repo)
        return upload(ready, repo, private=private, token=token, revision=revision, message=message)


def push_in_background(
    directory: str | Path,
    repo: str,
    *,
    model: PreTrainedModel | None = None,
    packed: bool = False,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
    **card: Any,
) -> Future[Pushed]:
    """Publish as `push` does; return once all files are made, while they are sent by a thread.

    Directory and model may change from then on. Raises as `staged` does; what is refused later comes with the
    result.
    """
    repo = whole_name(repo, token)
    with ExitStack() as files:
        ready = files.enter_context(
            staged(directory, repo, model=model, packed=packed, token=token, revision=revision, **card)
        )
        kept = files.pop_all()

    def send() -> Pushed:
        with kept:
            return upload(ready, repo, private=private, token=token, revision=revision, message=message)

    return HfApi().run_as_future(send)


def whole_name(repo: str, token: str | None = None, dry_run: bool = False) -> str:
    """Return the name of a repository to push to with its owner, who is asked for where it is left out.

    In a dry run nobody is asked. Raises `ValueError` for a name that the Hub does not take,
    `PermissionError` if nobody is logged in, and as `patiently` does.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(
            f"{repo!r} is no name for a model on the Hub; write OWNER/NAME, in letters, digits, '-', '_' and "
            "'.'"
        ) from error
    if dry_run:
        return repo
    if constants.HF_HUB_OFFLINE:
        raise ValueError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it")
    if not (token or get_token()):
        raise PermissionError("nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN")
    if "/" in repo:
        return repo
    return f"{patiently(lambda: _api(token).whoami(), repo)['name']}/{repo}"


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
    """Send a staged directory in one commit; a card on the Hub that somebody wrote or changed stays.

    Raises `PermissionError` where the token may not write, `ConnectionError` where the Hub cannot be reached,
    fails or wants no more requests, each after some attempts, `RuntimeError` if somebody else has changed the
    repository meanwhile, and `ValueError` for whatever else the Hub refuses.
    """
    api = _api(token)
    url = patiently(lambda: api.create_repo(repo, private=private, exist_ok=True), repo)
    if revision not in (None, constants.DEFAULT_REVISION):
        patiently(lambda: api.create_branch(url.repo_id, branch=revision, exist_ok=True), url.repo_id)
    return patiently(lambda: _commit(api, ready, url, private, revision, message or MESSAGE), url.repo_id)


def _api(token: str | None) -> HfApi:
    return HfApi(token=token, library_name="hf_sparse", library_version=__version__)


def _commit(
    api: HfApi, ready: Staged, url: RepoUrl, private: bool | None, revision: str | None, message: str
) -> Pushed:
    """Commit what differs."""
    repo = url.repo_id
    head = api.model_info(repo, revision=revision)
    if private and not head.private:
        raise ValueError(
            f"{repo} is there already and public; make it private in its settings on the Hub, or push to "
            "another name"
        )
    files, notes = ready.files, ready.notes
    there = [sibling.rfilename for sibling in head.siblings]
    gone = _left_over(there, (path for path, _ in files))
    if ready.generated and CARD in there and not is_generated(_read_card(api, head)):
        files = tuple((path, size) for path, size in files if not _of_card(path))
        gone = [path for path in gone if not _of_card(path)]
        notes += (f"{CARD} of {repo} {WRITTEN}; delete it there for a card of what was measured",)
    additions = [CommitOperationAdd(path, ready.folder / path) for path, _ in files]
    # A .gitignore there would leave out files, and the model would not be whole. An empty one is none.
    rules = "# nothing is left out\n"
    api.preupload_lfs_files(repo, additions, revision=revision, gitignore_content=rules, free_memory=False)
    commit = api.create_commit(
        repo,
        [*(CommitOperationDelete(path) for path in gone), *additions],
        commit_message=message,
        revision=revision,
        # Of what was looked at above.
        parent_commit=head.sha,
    )
    return Pushed(repo, str(url), commit.oid, files, commit.oid != head.sha, notes)


def _read_card(api: HfApi, head: ModelInfo) -> str:
    """Return the card that lies on the Hub."""
    address = hf_hub_url(head.id, CARD, revision=head.sha, endpoint=api.endpoint)
    answer = get_session().get(address, headers=build_hf_headers(token=api.token))
    hf_raise_for_status(answer)
    return answer.content.decode("utf-8", "replace").replace("\r\n", "\n")


def _of_card(path: str) -> bool:
    return path == CARD or path.startswith(f"{PICTURES}/")


def _left_over(there: Iterable[str], wanted: Iterable[str]) -> list[str]:
    return sorted(
        path for path in set(there).difference(wanted) if any(fnmatchcase(path, ours) for ours in OURS)
    )
