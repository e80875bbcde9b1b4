"""A directory that keeps the outputs of a teacher, so that each example is computed once."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_sparse.atomic.files import create_file
from hf_sparse.distillation.cache_files import CacheFile, cache_files_in, write_cache_file
from hf_sparse.distillation.cached_outputs import (
    Layout,
    Place,
    Rows,
    Storage,
    to_batch,
    to_entries,
)
from hf_sparse.distillation.example_keys import Examples, select
from hf_sparse.distillation.teacher_identity import check_same
from hf_sparse.distillation.unwrap import unwrapped
from hf_sparse.readers import read_json
from hf_sparse.units import size

logger = logging.getLogger(__name__)

IDENTITY = "hf_sparse_teacher.json"
_WAY_OUT = "choose another directory for teacher_cache, or delete this one"
# Bytes of entries that wait in memory to be written together.
_SHARD = 1 << 26
# Caches of at most this many bytes are read once before the first step, larger ones as they are used.
_CHECKED = 1 << 30
_ENTRIES = 1 << 32

Compute = Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], Mapping[Place, Rows]]]


# Models that mix padding into their outputs: by convolution, pooling, Fourier transforms, or hashing.
_SEE_PADDING = ("convbert", "fnet", "funnel", "nystromformer", "yoso")


@dataclass(frozen=True)
class TeacherCache:
    """Where a run keeps the outputs of its teacher, and what it keeps.

    Args:
        directory: Made if it does not exist. Several processes and runs may use it at the same time.
        top_k: Of the logits of a token, keep this many largest ones and the mass of all other classes, if
            there are more than twice as many classes. None keeps all logits.
        states: Keep the hidden states, attention or relations that the recipe compares, too.
        half: Round all numbers to float16.

    Raises:
        ValueError: `top_k` is no whole number of at least 1, or `directory` is empty or a file.
    """

    directory: str | Path
    top_k: int | None = 64
    states: bool = False
    half: bool = False

    def __post_init__(self) -> None:
        whole = isinstance(self.top_k, int) and not isinstance(self.top_k, bool)
        if self.top_k is not None and not (whole and self.top_k >= 1):
            raise ValueError(
                f"top_k is a whole number, at least 1, got {self.top_k!r}; None keeps all logits"
            )
        if not str(self.directory):
            raise ValueError("the directory of a teacher cache is empty; name one")
        if Path(self.directory).exists() and not Path(self.directory).is_dir():
            raise ValueError(f"teacher_cache {self.directory} is a file; name a directory")


def as_cache(given: TeacherCache | str | Path | None, distils: bool) -> TeacherCache | None:
    """Return what a trainer was given as a `TeacherCache`; a directory alone takes the defaults.

    Raises `ValueError` without distillation, and `TypeError` for anything else than a cache or a directory.
    """
    if given is None:
        return None
    if not isinstance(given, TeacherCache | str | Path):
        raise TypeError(f"teacher_cache is a directory or a TeacherCache, got {given!r}; pass its path")
    if not distils:
        raise ValueError(
            f"teacher_cache {given} keeps what a teacher computes, and the recipe lacks distillation; leave "
            "it out, or add distillation"
        )
    return given if isinstance(given, TeacherCache) else TeacherCache(given)


class TeacherOutputs:
    """The outputs of one teacher in an open cache.

    Args:
        cache: The directory and what is kept in it.
        identity: What outputs depend on besides the example, by name: see `identity_of`.
        temperature: That of the recipe.

    Raises:
        ValueError: The directory holds outputs of something else, or is damaged.
        OSError: It cannot be read or written.
    """

    def __init__(self, cache: TeacherCache, identity: Mapping[str, Any], temperature: float) -> None:
        self.directory = Path(cache.directory)
        self.storage = Storage(cache.top_k, cache.half, temperature)
        self.read = self.computed = 0
        self._files: list[CacheFile] = []
        # The number of a file, then that of the entry in it: a dictionary of whole numbers is small.
        self._places: dict[bytes, int] = {}
        self._waiting: dict[bytes, bytearray] = {}
        self._bytes = 0
        self._layout: Layout = ()
        self._writes = True
        self._identity = self._claim({"top_k": cache.top_k, "half": cache.half, **identity})
        self.refresh()
        if sum(file.size for file in self._files) <= _CHECKED:
            for file in self._files:
                file.check()

    def __len__(self) -> int:
        """The number of examples whose outputs are known."""
        return len(self._places) + len(self._waiting)

    def describe(self) -> str:
        """Return a line for the log: where the cache is, and what it holds."""
        held = size(sum(file.size for file in self._files))
        most = self.storage.top_k
        logits = (
            "all logits" if most is None else f"of more than {2 * most} classes the {most} largest logits"
        )
        so_far = f"{len(self):,} examples so far, {held}"
        return f"Keeping the teacher's outputs, {logits}, in {self.directory}: {so_far}"

    def refresh(self) -> None:
        """Take up what other processes have written since; raise as `__init__` does."""
        known = {file.path for file in self._files}
        for path in cache_files_in(self.directory):
            if path not in known:
                self._take_up(CacheFile(path))

    def outputs(self, given: Mapping[str, Any], compute: Compute, device: torch.device) -> Mapping[str, Any]:
        """Return the outputs of a batch, of which only examples that are new are computed.

        Args:
            given: The teacher's inputs by name.
            compute: Runs the teacher on some rows of `given`; returns its outputs, and which to keep.
            device: Where the outputs are to be.

        Raises:
            ValueError: The batch or the outputs cannot be cached, or an entry is damaged.
        """
        examples = Examples.of(given)
        rows = {key: row for row, key in enumerate(examples.keys) if not self._has(key)}
        self.computed += len(rows)
        self.read += len(examples.keys) - len(rows)
        fresh: dict[bytes, bytearray] = {}
        layouts = set()
        if rows:
            whole = len(rows) == len(examples.keys)
            found, wanted = compute(given if whole else select(given, [*rows.values()]))
            new = Examples(tuple(rows), None if examples.keep is None else examples.keep[[*rows.values()]])
            layout, entries = to_entries(found, wanted, new, self.storage)
            fresh = dict(zip(new.keys, entries, strict=True))
            self._keep(fresh, layout)
            layouts.add(layout)
        gathered = []
        for key in examples.keys:
            entry, layout = (fresh[key], layout) if key in fresh else self._entry(key)
            gathered.append(entry)
            layouts.add(layout)
        if len(layouts) > 1:
            raise ValueError(
                f"the teacher's outputs differ in shape or type from those in {self.directory}; {_WAY_OUT}"
            )
        try:
            return to_batch(gathered, layout, examples, device)
        except ValueError as error:
            raise ValueError(f"{self.directory} is damaged ({error}); {_WAY_OUT}") from error

    def flush(self) -> None:
        """Write what is new. If that fails, a warning says so, and nothing more is written."""
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        if not waiting or not self._writes:
            return
        try:
            self._take_up(write_cache_file(self.directory, waiting, self._layout, self._identity))
        except OSError as error:
            self._writes = False
            logger.warning(
                "The teacher cache %s cannot be written (%s), so training goes on with what is in it; make "
                "room, and the next run adds the rest.",
                self.directory,
                error.strerror or error,
            )

    def _keep(self, entries: Mapping[bytes, bytearray], layout: Layout) -> None:
        if layout != self._layout:
            self.flush()
            self._layout = layout
        if self._writes:
            self._waiting |= entries
            self._bytes += sum(map(len, entries.values()))
        if self._bytes >= _SHARD:
            self.flush()

    def _has(self, key: bytes) -> bool:
        return key in self._waiting or key in self._places

    def _entry(self, key: bytes) -> tuple[bytearray, Layout]:
        if key in self._waiting:
            return self._waiting[key], self._layout
        file, number = divmod(self._places[key], _ENTRIES)
        return self._files[file].read(number), self._files[file].layout

    def _sum(self, key: bytes) -> int:
        file, number = divmod(self._places[key], _ENTRIES)
        return self._files[file].sums[number]

    def _take_up(self, file: CacheFile) -> None:
        if file.identity != self._identity:
            raise ValueError(f"{file.path} belongs to another teacher or other settings; {_WAY_OUT}")
        own = self.storage.temperature
        for output in file.layout:
            if output.largest and output.temperature != own:
                raise ValueError(
                    f"{file.path} holds the mass of small logits at temperature {output.temperature:g}, and "
                    f"the recipe has distillation.temperature {own:g}; take the same, or {_WAY_OUT}"
                )
        first = len(self._files) * _ENTRIES
        self._files.append(file)
        for number, key in enumerate(file.keys):
            # Of an example that two processes computed, whose bits may differ, all take the same entry.
            if key not in self._places or file.sums[number] < self._sum(key):
                self._places[key] = first + number
        # Only their places are needed from here on.
        file.keys = []

    def _claim(self, own: dict[str, Any]) -> str:
        """Write down whose outputs the directory holds, or check it; return that in short."""
        path = self.directory / IDENTITY
        if not path.is_file():
            if self.directory.is_dir() and any(cache_files_in(self.directory)):
                raise ValueError(f"{self.directory} holds outputs of an unknown teacher; {_WAY_OUT}")
            create_file(path, json.dumps(own, indent=2).encode())
        held = read_json(path, "description of a teacher cache", _WAY_OUT, own=True)
        check_same(self.directory, held, own, _WAY_OUT)
        return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def check_kept(
    cache: TeacherCache, teacher: nn.Module, compared: Mapping[str, Mapping[Place, Rows] | None]
) -> None:
    """Raise `ValueError` if a cache cannot keep what is compared of a teacher.

    Args:
        cache: What is to be kept.
        teacher: The model.
        compared: What each term of inner states reads, by its name.
    """
    model = unwrapped(teacher)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError(
            f"the teacher {type(model).__name__} is an encoder-decoder, and a cache keeps texts of one "
            "length each; leave teacher_cache out"
        )
    kind = getattr(getattr(model, "config", None), "model_type", "")
    if kind in _SEE_PADDING:
        raise ValueError(
            f"the outputs of {kind} depend on how far a text is padded, and a cache keeps those of the text; "
            "leave teacher_cache out"
        )
    if unknown := [name for name, reads in compared.items() if reads is None]:
        raise ValueError(
            f"what {unknown[0]} reads of the teacher is unknown, so it cannot be cached; define `reads` of "
            "that term, or leave teacher_cache out"
        )
    if compared and not cache.states:
        raise ValueError(
            f"the recipe compares {', '.join(compared)}, and the teacher cache keeps the logits alone; set "
            "states of TeacherCache (--teacher_cache_states), which takes more room, or leave teacher_cache "
            "out"
        )
