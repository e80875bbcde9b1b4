"""Load data sets from the Hub, a directory or single files."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowInvalid

FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def load_splits(
    name: str | None = None,
    config: str | None = None,
    files: Mapping[str, str] | None = None,
    cache_dir: str | None = None,
) -> DatasetDict:
    """Load the splits of a data set.

    Args:
        name: A directory or Hub name. File names in a directory give the splits, such as `train.parquet` and
            `validation.csv`; shards such as `train-00000-of-00002.parquet` are joined. A directory without
            such files is loaded by `datasets`.
        config: The configuration of a data set with several.
        files: A file for each split, used if `name` is None.
        cache_dir: The cache of `datasets`.

    Raises:
        ValueError: Neither name nor files are given, or a file cannot be read.
        FileNotFoundError: A file does not exist.
    """
    if name is not None and Path(name).is_dir() and (found := _files_by_stem(Path(name))):
        return _load_files(found, cache_dir)
    if name is not None:
        splits = load_dataset(name, config, cache_dir=cache_dir)
        return splits if isinstance(splits, DatasetDict) else DatasetDict(splits)
    if not files:
        raise ValueError("no data: give a data set (a directory or a Hub name) or a file for each split")
    return _load_files({split: [Path(path)] for split, path in files.items()}, cache_dir)


def _files_by_stem(directory: Path) -> dict[str, list[Path]]:
    found = defaultdict(list)
    for path in sorted(directory.iterdir()):
        if path.suffix in FORMATS:
            found[_SHARD.sub("", path.stem)].append(path)
    for split, paths in found.items():
        if len({path.suffix for path in paths}) > 1:
            names = ", ".join(path.name for path in paths)
            raise ValueError(f"split {split!r} has files of several formats ({names}); keep one of them")
    return dict(found)


def _load_files(found: Mapping[str, list[Path]], cache_dir: str | None) -> DatasetDict:
    return DatasetDict({split: _load(paths, cache_dir) for split, paths in found.items()})


def _load(paths: list[Path], cache_dir: str | None) -> Dataset:
    for path in paths:
        if path.suffix not in FORMATS:
            raise ValueError(f"{path} is none of {', '.join(FORMATS)}; convert it to one of them")
        if not path.is_file():
            raise FileNotFoundError(f"the file {path} does not exist; give data files by their path")
    names, form = [str(path) for path in paths], FORMATS[paths[0].suffix]
    try:
        return load_dataset(form, data_files=names, split="train", cache_dir=cache_dir)
    except (DatasetGenerationError, ArrowInvalid, ValueError) as error:
        why = f"{error.__cause__ or error}".partition("\n")[0][:300]
        raise ValueError(
            f"{', '.join(names)} cannot be read as {form} ({why}); save it again in UTF-8, or in another of "
            f"{', '.join(FORMATS)}"
        ) from error
