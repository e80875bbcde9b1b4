"""Text, tables, results of the smallest size."""

import json
import random
from pathlib import Path

from datasets import Dataset

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("a", "e", "i", "o", "u")]


def sentences(count: int, seed: int = 0, length: int = 8) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=length)) for _ in range(count)]


def write_table(path: Path, columns: dict[str, list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = Dataset.from_dict(columns)
    writer = {".csv": table.to_csv, ".jsonl": table.to_json, ".parquet": table.to_parquet}[path.suffix]
    writer(path)


def results(folder: Path, name: str = "all") -> dict[str, float]:
    return json.loads((folder / f"{name}_results.json").read_text())
