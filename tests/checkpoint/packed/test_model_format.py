"""A reader written from docs/packed_format.md alone finds in the file what load_packed finds."""

import base64
import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from hf_sparse import find_targets
from hf_sparse.checkpoint.packed.codec import Coding, Stream
from hf_sparse.checkpoint.packed.model import load_packed, save_packed
from hf_sparse.checkpoint.packed.packed_file import FORMAT_VERSION, PACKED, Entry, Quantization
from hf_sparse.quantization.activations import parameters
from hf_sparse.quantization.convert import attach
from hf_sparse.quantization.fake_layers import Phase
from hf_sparse.quantization.weights import read_weight_scheme
from tests.support.tiny import bert, sentences

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "packed_format.md").read_text(encoding="utf-8")
SIZES = {"float32": 4, "bfloat16": 2, "int64": 8}


def entries(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    header, payload = json.loads(content[8:length]), content[length:]
    version, checksum, text = header.pop("__metadata__")["hf_sparse_packed"].split(" ")
    index = base64.b64decode(text)
    assert (version, zlib.crc32(index)) == (str(FORMAT_VERSION), int(checksum))
    for entry in json.loads(zlib.decompress(index, -15)):
        place = header.pop(entry["name"] + ".packed")
        part = payload[slice(*place["data_offsets"])]
        assert place["dtype"] == "U8" and place["shape"] == [len(part)]
        assert zlib.crc32(part) == entry["crc32"]
        yield entry, part
    assert not header


def decode(coding: dict[str, Any], content: bytes, n: int, size: int, bits: int | None) -> list[int]:
    """Return n integers, of `size` bytes or codes of `bits`."""
    streams = []
    for stream in coding["streams"]:
        part, content = content[: stream["length"]], content[stream["length"] :]
        streams.append(part if stream["method"] == "stored" else zlib.decompress(part, -15))
        assert len(streams[-1]) == stream["size"]
    dense, k = coding["positions"] == "all", coding["count"]
    places = list(range(n)) if dense else locate(coding["positions"], streams.pop(0))
    if bits is None:
        values = [sum(plane[value] << 8 * byte for byte, plane in enumerate(streams)) for value in range(k)]
    else:
        h = 2 ** (bits - 1) - 1
        m = 2 * h + dense
        d = max(digits for digits in range(1, 9) if m**digits <= 256 or digits == 1)
        numbers = [byte // m**digit % m for byte in streams[0] for digit in range(d)][:k]
        values = [number - h + (not dense and number >= h) for number in numbers]
    integers = [0] * n
    for place, value in zip(places, values, strict=True):
        integers[place] = value
    return integers


def locate(form: str, stream: bytes) -> list[int]:
    if form == "bitmap":
        return [8 * at + bit for at, byte in enumerate(stream) for bit in range(8) if byte >> (7 - bit) & 1]
    places, at = [], 0
    for byte in stream:
        at += byte
        if byte != 255:
            places.append(at)
            at += 1
    return places


def floats(integers: list[int], dtype: str) -> torch.Tensor:
    content = b"".join(integer.to_bytes(SIZES[dtype], "little") for integer in integers)
    return torch.frombuffer(bytearray(content), dtype=getattr(torch, dtype))


def read(entry: dict[str, Any], content: bytes) -> torch.Tensor:
    n, shape, quantization = math.prod(entry["shape"]), entry["shape"], entry["quantization"]
    if quantization is None:
        return floats(decode(entry["coding"], content, n, SIZES[entry["dtype"]], None), entry["dtype"]).view(
            shape
        )
    bits, kind, group = re.fullmatch(r"int(\d)_(?:per_(\w+)|group_(\d+))", quantization["weights"]).groups()
    out, inputs = shape[::-1] if quantization["transposed"] else shape
    columns = {"tensor": 1, "channel": 1, None: inputs // int(group or inputs)}[kind]
    rows = 1 if kind == "tensor" else out
    first = sum(stream["length"] for stream in entry["coding"]["streams"])
    codes = torch.tensor(decode(entry["coding"], content[:first], n, 1, int(bits))).view(out, columns, -1)
    scales = decode(quantization["scales"], content[first:], rows * columns, 4, None)
    weight = (codes.float() * floats(scales, "float32").view(rows, columns, 1)).view(out, inputs)
    return (weight.t() if quantization["transposed"] else weight).to(getattr(torch, entry["dtype"]))


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=100, n_positions=16))


def small() -> PreTrainedModel:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    return bert(**sizes, max_position_embeddings=16).to(torch.bfloat16)


@pytest.mark.parametrize("make", [small, gpt2])
@pytest.mark.parametrize(
    ("weights", "sparsity"),
    [(None, 0.5), ("int8_per_channel", 0.9), ("int3_per_tensor", 0.7), ("int4_group_8", 0.0)],
)
def test_a_reader_made_from_the_page_reads_the_file(
    make, weights: str | None, sparsity: float, tmp_path: Path
) -> None:
    model = make()
    with torch.no_grad():
        for target in find_targets(model):
            # Of float32: quantiles of other floats do not exist.
            limit = target.weight.abs().flatten().float().quantile(sparsity)
            target.weight[target.weight.abs().float() < limit] = 0
    if weights is not None:
        attach(find_targets(model), read_weight_scheme(weights), "uint8_per_tensor", "min_max", Phase())
        model.train()(input_ids=torch.stack([row["input_ids"] for row in sentences(4)]))
    save_packed(model, tmp_path)
    loaded, plain = load_packed(tmp_path), load_packed(tmp_path, dequantize=True).state_dict()
    read_entries = {
        entry["name"]: (entry, read(entry, part)) for entry, part in entries(tmp_path / "packed.safetensors")
    }
    assert read_entries.keys() <= plain.keys()
    for name, (entry, tensor) in read_entries.items():
        assert tensor.dtype == plain[name].dtype and torch.equal(tensor, plain[name]), name
        if (quantization := entry["quantization"]) is not None:
            module = loaded.get_submodule(name.removesuffix(".weight"))
            low, high = (torch.tensor(end) for end in quantization["input_range"])
            low, high = min(low, torch.tensor(0.0)), max(high, torch.tensor(0.0))
            scale = (high - low) / 255
            expected = parameters(module.input_low, module.input_high)
            assert (scale, torch.round(-low / scale)) == expected


def test_the_page_has_every_field_of_the_index() -> None:
    # Keys of entries, of their quantization, and of codings stand in tables; those of streams in a sentence.
    keys = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert keys == {field.name for kind in (Entry, Quantization, Coding) for field in fields(kind)}
    sentence = re.search(r"A stream has the keys ([^.]+)\.", PAGE)[1]
    assert re.findall(r"`(\w+)`", sentence) == [field.name for field in fields(Stream)]


def test_the_page_has_every_version_and_a_file_of_each_is_kept() -> None:
    assert PAGE.splitlines()[0] == f"# The packed file, format version {FORMAT_VERSION}"
    kept = [path.read_bytes() for path in (ROOT / "tests" / "fixtures").rglob(PACKED)]
    words = [re.search(rb'"hf_sparse_packed":"([0-9]+) ', content)[1] for content in kept]
    assert {int(word) for word in words} == set(range(1, FORMAT_VERSION + 1))
