"""Repositories of the Hub server with their branches, commits and large files."""

import hashlib
import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

ATTRIBUTES = b"*.bin filter=lfs diff=lfs merge=lfs -text\n*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
# Files above this size go to large file storage.
_LARGE = 10_000_000
_counter = itertools.count(1)


def git_blob(content: bytes) -> str:
    """Return git's hash of a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Blob:
    """A file; git holds only a pointer to a `large` one."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @property
    def oid(self) -> str:
        """Its hash in git."""
        return git_blob(self.pointer if self.large else self.content)

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid

    def described(self, path: str) -> dict[str, object]:
        """Return its entry in the tree of a repository."""
        entry: dict[str, object] = {
            "type": "file",
            "path": path,
            "size": len(self.content),
            "oid": self.oid,
        }
        if self.large:
            entry["lfs"] = {
                "oid": self.sha256,
                "size": len(self.content),
                "pointerSize": len(self.pointer),
            }
        return entry


@dataclass(frozen=True)
class Commit:
    """A commit with all files of its tree."""

    sha: str
    title: str
    files: Mapping[str, Blob]


@dataclass
class Repository:
    """A model repository; like on the Hub it begins with one commit."""

    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.advance("main", "initial commit", {".gitattributes": Blob(ATTRIBUTES, False)})

    def find(self, revision: str) -> Commit | None:
        """Return the commit of a branch or a hash."""
        return self.commits.get(self.branches.get(revision, revision))

    def head(self, branch: str = "main") -> Commit:
        return self.commits[self.branches[branch]]

    def titles(self, branch: str = "main") -> list[str]:
        """Return the titles of the commits of a repository with one branch, oldest first."""
        return [commit.title for commit in self.commits.values()]

    def advance(self, branch: str, title: str, files: Mapping[str, Blob]) -> Commit:
        sha = hashlib.sha1(f"{self.name} {branch} {next(_counter)}".encode()).hexdigest()
        commit = Commit(sha, title, dict(files))
        self.commits[sha] = commit
        self.branches[branch] = sha
        return commit

    def write(self, files: Mapping[str, bytes], branch: str = "main", title: str = "by hand") -> Commit:
        """Commit files as somebody else would."""
        with self.lock:
            added = {path: Blob(content, is_large(path, content)) for path, content in files.items()}
            self.objects |= {blob.sha256: blob.content for blob in added.values() if blob.large}
            return self.advance(branch, title, {**self.head(branch).files, **added})

    def contents(self, branch: str = "main") -> dict[str, bytes]:
        """Return the files of a branch without .gitattributes."""
        files = self.head(branch).files
        return {path: blob.content for path, blob in sorted(files.items()) if path != ".gitattributes"}

    def ignored(self, path: str, rules: str | None) -> bool:
        """Return whether the given .gitignore, by default that of the repository, excludes a file."""
        if not rules:
            held = self.head().files.get(".gitignore")
            rules = held.content.decode() if held else ""
        names = [rule.strip().rstrip("/") for rule in rules.splitlines() if rule.strip()]
        parts = {path, *PurePosixPath(path).parts, *map(str, PurePosixPath(path).parents)}
        return any(fnmatchcase(part, name.lstrip("/")) for part in parts for name in names)


def is_large(path: str, sample: bytes, size: int = 0) -> bool:
    """Return whether a file is stored outside of git, by its ending, its size, or its zero bytes."""
    return path.endswith((".bin", ".safetensors")) or size > _LARGE or b"\0" in sample
