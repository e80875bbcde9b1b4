"""Damaged, foreign and hostile packed files are refused, whatever is wrong with them."""

import base64
import json
import shutil
import tracemalloc
import zlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from hf_sparse import find_targets
from hf_sparse.checkpoint.packed.codec import pack_codes, pack_words
from hf_sparse.checkpoint.packed.model import load_packed, save_packed
from hf_sparse.checkpoint.packed.packed_file import PACKED, Entry, index_metadata, read_packed, write_packed
from hf_sparse.quantization.convert import attach
from hf_sparse.quantization.fake_layers import Phase
from hf_sparse.quantization.weights import read_weight_scheme
from tests.support.tiny import bert, sentences

QUERY = "bert.encoder.layer.0.attention.self.query.weight"
NORM = "bert.embeddings.LayerNorm.weight"
WORDS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    model = bert(num_hidden_layers=1, hidden_size=8, intermediate_size=16, max_position_embeddings=16)
    scheme, targets = read_weight_scheme("int8_per_channel"), find_targets(model)
    attach(targets, scheme, "uint8_per_tensor", "moving_average", Phase())
    model.train()(input_ids=torch.stack([row["input_ids"] for row in sentences(4)]))
    save_packed(model.eval(), folder)
    return folder


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    shutil.copytree(packed, tmp_path, dirs_exist_ok=True)
    return tmp_path


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the header of a file and make its checksum fit."""
    with safe_open(folder / PACKED, "numpy") as file:
        _, _, text = file.metadata()["hf_sparse_packed"].split()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    entries = json.loads(zlib.decompress(base64.b64decode(text), -15))
    entries = change(entries) or entries
    save_file(tensors, folder / PACKED, index_metadata(entries))


def entry(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(found for found in entries if found["name"] == name)


def test_models_are_not_made_of_damaged_files(folder: Path) -> None:
    whole = (folder / PACKED).read_bytes()
    for place in range(0, len(whole), len(whole) // 20):
        (folder / PACKED).write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="is damaged|has format version"):
            load_packed(folder)
        (folder / PACKED).write_bytes(whole[:place])
        with pytest.raises(ValueError, match="is damaged"):
            load_packed(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="packed.safetensors does not exist; pack a model with save_packed"
    ):
        load_packed(tmp_path)


def set_to(name: str, *path: str | int, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(entries: list[dict[str, Any]]) -> None:
        held = entry(entries, name)
        for step in path[:-1]:
            held = held[step]
        held[path[-1]] = value

    return change


HUGE = 1 << 60
HOSTILE = {
    "a shape beyond all memory": (
        set_to(WORDS, "shape", value=[HUGE, HUGE]),
        "bytes are said to hold",
    ),
    "a shape of another tensor": (set_to(NORM, "shape", value=[2, 4]), "restore the config.json"),
    "a negative shape": (set_to(NORM, "shape", value=[-8]), "greater than or equal to 0"),
    "more values than entries": (set_to(WORDS, "coding", "count", value=HUGE), "values are said to be in"),
    "a stream beyond all memory": (
        set_to(WORDS, "coding", "streams", 0, "size", value=HUGE),
        "bytes of positions, 100 to 100 were expected",
    ),
    "a long stream": (set_to(WORDS, "coding", "streams", 0, "length", value=HUGE), "do not fill its"),
    "an unknown dtype": (set_to(NORM, "dtype", value="float128"), "choose one of bfloat16"),
    "another dtype": (set_to(NORM, "dtype", value="int32"), "the model of its configuration has"),
    "an unknown key": (set_to(NORM, "pickle", value="gASV"), "pickle Unexpected keyword argument"),
    "a number as text": (set_to(NORM, "crc32", value="32"), "valid integer"),
    "a wrong checksum": (set_to(NORM, "crc32", value=1), "does not match its checksum"),
    "an unknown scheme": (
        set_to(QUERY, "quantization", "weights", value="int9"),
        "is not a scheme of weights",
    ),
    "another scheme": (
        set_to(QUERY, "quantization", "weights", value="int4_per_channel"),
        "sizes of its values do not fit",
    ),
    "other scales": (set_to(QUERY, "quantization", "weights", value="int8_per_tensor"), "said to be in 1"),
    "a group that does not fit": (
        set_to(QUERY, "quantization", "weights", value="int8_group_3"),
        "does not cover",
    ),
    "an unknown observer": (set_to(QUERY, "quantization", "observer", value="eval"), "choose one of"),
    "no range": (set_to(QUERY, "quantization", "input_range", value=None), "exclude each other"),
    "an infinite range": (
        set_to(QUERY, "quantization", "input_range", value=[0.0, float("inf")]),
        "finite number",
    ),
    "another orientation": (
        set_to(QUERY, "quantization", "transposed", value=True),
        "not the weight of a Linear",
    ),
    "a path for a name": (set_to(NORM, "name", value="../../config.json"), "not those of its index"),
    "a name twice": (set_to(NORM, "name", value=QUERY), "a name occurs twice"),
    "an entry too few": (lambda entries: entries[1:], "not those of its index"),
    "no entries": (lambda entries: [{}], "Field required"),
    "another kind of JSON": (lambda entries: {"entries": entries}, "valid array"),
    "endless nesting": (lambda entries: json.loads("[" * 900 + "]" * 900), "is damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_headers_that_contradict_the_file_or_the_model_are_refused(case: str, folder: Path) -> None:
    change, message = HOSTILE[case]
    rewrite(folder, change)
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as caught:
        load_packed(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert PACKED in str(caught.value) and peak < 1 << 24


def repacked(folder: Path, name: str, change: Callable[[Entry, bytes], tuple[Entry, bytes]]) -> None:
    """Change the content of one entry; checksums are made to fit."""
    pairs = [
        change(held, bytes(content)) if held.name == name else (held, bytes(content))
        for held, content in read_packed(folder / PACKED)
    ]
    write_packed(folder / PACKED, pairs)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_no_scales_are_refused(scale: float, folder: Path) -> None:
    def change(held: Entry, content: bytes) -> tuple[Entry, bytes]:
        scales, packed_scales = pack_words(np.full(8, scale, np.float32).view(np.int32))
        changed = deepcopy(held)
        object.__setattr__(changed.quantization, "scales", scales)
        content = content[: held.coding.length] + packed_scales
        return changed, content

    repacked(folder, QUERY, change)
    with pytest.raises(ValueError, match=f"{QUERY}: its scales are not all positive numbers"):
        load_packed(folder)


def test_embeddings_have_no_inputs_to_round(folder: Path) -> None:
    donor = next(held for held, _ in read_packed(folder / PACKED) if held.name == QUERY)

    def change(held: Entry, content: bytes) -> tuple[Entry, bytes]:
        coding, codes = pack_codes(np.ones(held.shape, np.int8), 127)
        scales, packed_scales = pack_words(np.ones(held.shape[0], np.float32).view(np.int32))
        quantization = deepcopy(donor.quantization)
        object.__setattr__(quantization, "scales", scales)
        content = codes + packed_scales
        return Entry(held.name, held.dtype, held.shape, coding, quantization), content

    repacked(folder, WORDS, change)
    with pytest.raises(ValueError, match=f"{WORDS} is quantized and is not the weight of a Linear"):
        load_packed(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": None}, "names None with a BertConfig"),
        ({"architectures": ["PreTrainedModel"]}, "which is not a class of transformers"),
        ({"architectures": ["AutoModel"]}, "which is not a class of transformers"),
        ({"architectures": ["pipeline"]}, "which is not a class of transformers"),
        ({"architectures": ["GPT2LMHeadModel"]}, "names GPT2LMHeadModel with a BertConfig"),
        ({"architectures": ["BertForMaskedLM"]}, "differ in .* tensors"),
        ({"num_hidden_layers": 2}, "differ in 16 tensors"),
        ({"vocab_size": 90}, "word_embeddings.weight as float32 .*restore the config.json"),
    ],
)
def test_a_file_beside_another_configuration_is_refused(
    changes: dict[str, Any], message: str, folder: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=message):
        load_packed(folder)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, held in inner for found in _paths(held, (*path, key))]


ODD = [
    None,
    True,
    -1,
    0,
    1,
    7,
    255,
    1 << 31,
    1 << 70,
    0.5,
    "",
    "int8",
    "gaps",
    "all",
    "stored",
    [],
    [1, 2],
    {},
]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_header_says_the_model_is_whole_or_refused(
    data: st.DataObject, packed: Path, tmp_path: Path
) -> None:
    shutil.copytree(packed, tmp_path, dirs_exist_ok=True)

    def change(entries: list[dict[str, Any]]) -> None:
        chosen = data.draw(st.sampled_from([WORDS, NORM, QUERY]))
        *path, last = data.draw(st.sampled_from(_paths(entry(entries, chosen))))
        held: Any = entry(entries, chosen)
        for step in path:
            held = held[step]
        held[last] = data.draw(st.sampled_from(ODD))

    rewrite(tmp_path, change)
    try:
        loaded = load_packed(tmp_path)
    except ValueError as error:
        assert PACKED in str(error)
        return
    names = {name: value.shape for name, value in load_packed(packed).state_dict().items()}
    assert {name: value.shape for name, value in loaded.state_dict().items()} == names


def test_an_index_of_nothing_but_errors_takes_little_memory(folder: Path) -> None:
    rewrite(folder, lambda entries: [{}] * 15_000)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="its index cannot be understood: 0"):
            load_packed(folder)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float32])
def test_tensors_that_are_no_bytes_are_refused(folder: Path, dtype: torch.dtype) -> None:
    with safe_open(folder / PACKED, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[f"{NORM}.packed"] = torch.zeros(4).to(dtype)
    save_torch_file(tensors, folder / PACKED, metadata)
    with pytest.raises(ValueError, match=f"{NORM}.packed is .*, not bytes"):
        load_packed(folder)
