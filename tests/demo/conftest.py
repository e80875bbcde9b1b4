"""A job so small that all its stages take seconds."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import Dataset

WORDS = {
    "river": ["bank", "water", "flow", "boat", "fish"],
    "city": ["street", "house", "tram", "shop", "door"],
}


def write_task(folder: Path) -> Path:
    """Write texts of two classes, train beside validation."""
    folder.mkdir(parents=True)
    for split, count in (("train", 40), ("validation", 20)):
        draw = random.Random(split)
        labels = [draw.choice(sorted(WORDS)) for _ in range(count)]
        texts = [" ".join(draw.choices(WORDS[label], k=8)) for label in labels]
        Dataset.from_dict({"text": texts, "label": labels}).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module", autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the caches of the libraries out of the home directory."""
    caches = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_METRICS_CACHE", caches / "metrics")
        patch.setattr("datasets.config.HF_DATASETS_CACHE", caches / "datasets")
        yield


@pytest.fixture(scope="module")
def task_dir(tmp_path_factory: pytest.TempPathFactory, isolated: None) -> Path:
    return write_task(tmp_path_factory.mktemp("data") / "task")
