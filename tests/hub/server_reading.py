"""Answers of the Hub server to reading requests."""

import re
from urllib.parse import parse_qs

from tests.hub.server_access import OWNERS, Exchange, Refused, commit_of, readable


def who_am_i(ask: Exchange) -> None:
    if ask.token is None:
        raise Refused(401, "Invalid username or password.")
    role = "write" if ask.writer else "read"
    ask.answer(
        200,
        {
            "type": "user",
            "name": OWNERS[0],
            "orgs": [{"type": "org", "name": OWNERS[1]}],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
        },
    )


def references(ask: Exchange, name: str) -> None:
    branches = readable(ask, name).branches.items()
    listed = [
        {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": sha} for branch, sha in branches
    ]
    ask.answer(200, {"branches": listed, "converts": [], "tags": []})


def info(ask: Exchange, name: str, revision: str = "main") -> None:
    repository = readable(ask, name)
    commit = commit_of(repository, revision)
    ask.answer(
        200,
        {
            "id": name,
            "modelId": name,
            "author": name.split("/")[0],
            "sha": commit.sha,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        },
    )


def commits(ask: Exchange, name: str, revision: str) -> None:
    repository = readable(ask, name)
    commit_of(repository, revision)
    listed = [
        {
            "id": known.sha,
            "title": known.title,
            "message": "",
            "date": "2026-01-01T00:00:00.000Z",
            "authors": [],
        }
        for known in reversed(repository.commits.values())
    ]
    ask.answer(200, listed)


def tree(ask: Exchange, name: str, revision: str, folder: str) -> None:
    repository = readable(ask, name)
    commit = commit_of(repository, revision)
    inside = f"{folder.strip('/')}/" if folder else ""
    found = {path: blob for path, blob in sorted(commit.files.items()) if path.startswith(inside)}
    if inside and not found:
        raise Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    recursive = ask.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    files = [
        blob.described(path)
        for path, blob in found.items()
        if recursive or "/" not in path.removeprefix(inside)
    ]
    nested = [path.removeprefix(inside).split("/")[:-1] for path in found]
    depth = None if recursive else 1
    folders = {"/".join(parts[:end]) for parts in nested for end in range(1, len(parts[:depth]) + 1)}
    listed = [
        {"type": "directory", "path": inside + path, "size": 0, "oid": "0" * 40} for path in sorted(folders)
    ]
    ask.answer(200, listed + files)


def paths_info(ask: Exchange, name: str, revision: str) -> None:
    commit = commit_of(readable(ask, name), revision)
    if "json" in (ask.headers.get("Content-Type") or ""):
        paths = ask.json()["paths"]
    else:
        paths = parse_qs(ask.read().decode()).get("paths", [])
    ask.answer(200, [commit.files[path].described(path) for path in paths if path in commit.files])


def resolve(ask: Exchange, name: str, revision: str, path: str) -> None:
    found = commit_of(readable(ask, name), revision)
    known = {"X-Repo-Commit": found.sha}
    if path not in found.files:
        headers = known | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        ask.answer(404, {"error": "Entry not found"}, headers)
        return
    blob = found.files[path]
    if not blob.large:
        _send(ask, blob.content, known | {"ETag": f'"{blob.etag}"'})
        return
    linked = {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
    # Another host, as there: clients take the headers of this answer, and their token does not go along.
    elsewhere = ask.hub.url.replace("127.0.0.1", "localhost")
    ask.answer(302, b"", known | linked | {"Location": f"{elsewhere}/cdn/{name}/{blob.sha256}"})


def download(ask: Exchange, name: str, oid: str) -> None:
    _send(ask, ask.hub.repositories[name].objects[oid], {"ETag": f'"{oid}"'})


def _send(ask: Exchange, content: bytes, headers: dict[str, str]) -> None:
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", ask.headers.get("Range") or "")
    if wanted is None:
        ask.answer(200, content, headers | {"Accept-Ranges": "bytes"})
        return
    first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
    if first > last:
        raise Refused(416, "there are no such bytes")
    span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
    ask.answer(206, content[first : last + 1], headers | span)
