"""Damaged files of a saved model: its configuration, the index of its shards, the index of a packed file."""

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from hf_sparse import find_targets
from hf_sparse.checkpoint.compressed_tensors import is_compressed
from hf_sparse.checkpoint.load import load_model, named_class, rounded_as
from hf_sparse.checkpoint.packed.model import load_packed, save_packed
from hf_sparse.checkpoint.packed.packed_file import PACKED, index_metadata
from hf_sparse.checkpoint.saved_files import packed_file, weight_bytes
from hf_sparse.checkpoint.sizes import measure_sizes
from hf_sparse.checkpoint.sparsity_record import lost_zeros, read_sparsity_record, recorded_modules
from hf_sparse.quantization.convert import attach
from hf_sparse.quantization.fake_layers import Phase
from hf_sparse.quantization.weights import read_weight_scheme
from tests.fuzz.mutations import as_text, cases, damaged, plain_errors_only, rewritten
from tests.support.tiny import bert, sentences

TINY = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 16, "max_position_embeddings": 16}
RECORD = {
    "format_version": 1,
    "pattern": "unstructured",
    "target": 0.5,
    "achieved": 0.5,
    "digest": "0" * 64,
    "layers": {
        "encoder.layer.0.output.dense.weight": {
            "pattern": "unstructured",
            "target": 0.5,
            "achieved": 0.5,
            "removed": 64,
        }
    },
}


def plain(home: Path) -> Path:
    model = bert(**TINY)
    model.config.hf_sparse = RECORD
    model.save_pretrained(home)
    return home


def sharded(home: Path) -> Path:
    bert(**TINY).save_pretrained(home, max_shard_size="4KB")
    return home


def packed(home: Path) -> Path:
    model = bert(**TINY)
    attach(
        find_targets(model), read_weight_scheme("int8_per_channel"), "uint8_per_tensor", "min_max", Phase()
    )
    model.train()(input_ids=torch.stack([row["input_ids"] for row in sentences(4)]))
    save_packed(model.eval(), home)
    return home


def look(directory: Path) -> None:
    """Ask for what is known of a model without loading it."""
    named_class(str(directory)), rounded_as(str(directory)), packed_file(str(directory))
    is_compressed(directory), weight_bytes(str(directory))


def open_(directory: Path) -> None:
    """Load a model, look at its record and at its files."""
    model = load_model(str(directory))
    # Of a model in memory no file can be named.
    with plain_errors_only("the configuration's hf_sparse record"):
        read_sparsity_record(model), lost_zeros(model), recorded_modules(model)
    with plain_errors_only(directory, "has nothing to prune"):
        measure_sizes(model, directory)


CASES: dict[str, tuple[Callable[[Path], Path], str, Callable[[Path], Any], int]] = {
    "configuration": (plain, "config.json", look, 150),
    "configuration, loaded": (plain, "config.json", open_, 60),
    "configuration, run": (plain, "config.json", lambda directory: load_model(directory, accept="own"), 30),
    "index of shards": (sharded, "model.safetensors.index.json", look, 60),
    "configuration of a packed model": (packed, "config.json", load_packed, 80),
}


@pytest.mark.parametrize("case", CASES)
def test_they_are_refused_in_plain_words(case: str, tmp_path: Path) -> None:
    make, name, call, count = CASES[case]
    path = make(tmp_path) / name
    for random in cases(case, count):
        content = as_text(damaged(json.loads(path.read_text()), random), random)

        def read() -> None:
            with plain_errors_only(tmp_path):
                call(tmp_path)

        rewritten(path, content, read)


def test_so_are_packed_files_whose_checksums_were_made_to_fit(tmp_path: Path) -> None:
    path = packed(tmp_path) / PACKED
    with safe_open(path, "numpy") as file:
        _, _, text = file.metadata()["hf_sparse_packed"].split()
        contents = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    entries = json.loads(zlib.decompress(base64.b64decode(text), -15))
    for random in cases("packed", 200):
        changed, held = damaged(entries, random), dict(contents)
        if random.random() < 0.3:
            name = random.choice([name for name in held if held[name].size])
            content = held[name].copy()
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
            held[name] = content
            for entry in changed if isinstance(changed, list) else ():
                if isinstance(entry, dict) and f"{entry.get('name')}.packed" == name:
                    entry["crc32"] = zlib.crc32(content)
        try:
            metadata = index_metadata(changed)
        except UnicodeEncodeError:
            continue
        save_file(held, path, metadata)
        with plain_errors_only(path):
            load_packed(tmp_path)
