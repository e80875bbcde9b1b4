"""Answers of the Hub server to writing requests."""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.hub.server_access import OWNERS, Exchange, Refused, commit_of, require_writer, writable
from tests.hub.server_repositories import Blob, Repository, is_large


def create(ask: Exchange) -> None:
    wanted = ask.json()
    owner = wanted.get("organization") or OWNERS[0]
    name = f"{owner}/{wanted['name']}"
    described = {"url": f"{ask.hub.url}/{name}", "name": name, "id": name}
    if name in ask.hub.repositories:
        # Clients read the address from the error.
        ask.answer(409, described | {"error": "You already created this model repo"})
        return
    require_writer(ask, name)
    private = wanted.get("private") or wanted.get("visibility") == "private"
    ask.hub.repositories[name] = Repository(name, bool(private))
    ask.answer(200, described)


def branch(ask: Exchange, name: str, revision: str) -> None:
    repository = writable(ask, name)
    with repository.lock:
        if revision in repository.branches:
            raise Refused(409, f"Reference already exists: {revision}")
        start = (ask.json() or {}).get("startingPoint", "main")
        repository.branches[revision] = commit_of(repository, start).sha
    ask.answer(200, {"success": True})


def validate_yaml(ask: Exchange) -> None:
    parts = re.match(r"---\n(.*?)\n---", ask.json()["content"], re.DOTALL)
    try:
        held = yaml.safe_load(parts[1]) if parts else None
    except yaml.YAMLError as error:
        ask.answer(400, {"errors": [{"message": str(error)}], "warnings": []})
        return
    warnings = [] if held else [{"message": "empty or missing yaml metadata in repo card"}]
    ask.answer(200, {"errors": [], "warnings": warnings})


def preupload(ask: Exchange, name: str, revision: str) -> None:
    repository = writable(ask, name)
    files, asked = commit_of(repository, revision).files, ask.json()
    answers = []
    for wanted in asked["files"]:
        path, sample = wanted["path"], base64.b64decode(wanted["sample"])
        large, held = is_large(path, sample, wanted["size"]), files.get(path)
        answers.append(
            {
                "path": path,
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": repository.ignored(path, asked.get("gitIgnore")),
                "oid": held.etag if held else None,
            }
        )
    ask.answer(200, {"files": answers})


def batch(ask: Exchange, name: str) -> None:
    repository, asked = writable(ask, name), ask.json()
    objects = []
    for wanted in asked["objects"]:
        oid, described = wanted["oid"], {"oid": wanted["oid"], "size": wanted["size"]}
        if oid not in repository.objects:
            href = f"{ask.hub.url}/lfs/{name}/{oid}"
            described["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        objects.append(described)
    ask.answer(200, {"transfer": "basic", "objects": objects})


def upload(ask: Exchange, name: str, oid: str) -> None:
    """Store a large file; its address is secret, so no token is needed."""
    content = ask.read()
    if Blob(content, True).sha256 != oid:
        raise Refused(400, "the content is not what its address says")
    ask.hub.repositories[name].objects[oid] = content
    ask.answer(200, b"")


def verify(ask: Exchange, name: str, oid: str) -> None:
    size = ask.json()["size"]
    if len(writable(ask, name).objects.get(oid, b"")) != size:
        raise Refused(404, "no such object")
    ask.answer(200, {})


def commit(ask: Exchange, name: str, revision: str) -> None:
    repository = writable(ask, name)
    lines = [json.loads(line) for line in ask.read().splitlines()]
    header = lines.pop(0)["value"]
    with repository.lock:
        if revision not in repository.branches:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = repository.head(revision)
        if header.get("parentCommit", head.sha) != head.sha:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines:
            _apply(repository, files, line["key"], line["value"])
        made = repository.advance(revision, header["summary"], files)
    url = f"{ask.hub.url}/{name}/commit/{made.sha}"
    ask.answer(200, {"success": True, "commitUrl": url, "commitOid": made.sha, "hookOutput": ""})


def _apply(repository: Repository, files: dict[str, Blob], key: str, value: Mapping[str, Any]) -> None:
    path = value["path"]
    if key == "file":
        files[path] = Blob(base64.b64decode(value["content"]), False)
    elif key == "lfsFile":
        if value["oid"] not in repository.objects:
            raise Refused(400, f"{path} refers to an object that has not been uploaded")
        files[path] = Blob(repository.objects[value["oid"]], True)
    else:
        gone = [known for known in files if known == path or known.startswith(f"{path.rstrip('/')}/")]
        if not gone:
            raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for known in gone:
            del files[known]
