"""Tensors coded near their entropy and decoded without loss, whatever they hold."""

import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sparse.checkpoint.packed.codec import (
    Coding,
    Stream,
    pack_codes,
    pack_words,
    unpack_codes,
    unpack_words,
)
from hf_sparse.checkpoint.sizes import entropy_bytes
from hf_sparse.quantization.weights import WeightScheme


def drawn(shape: tuple[int, ...], sparsity: float, highest: int, seed: int = 0) -> np.ndarray:
    """Codes of a Gaussian whose smallest entries have been removed."""
    values = np.random.default_rng(seed).standard_normal(shape)
    if values.size:
        removed = np.argsort(np.abs(values), axis=None)[: int(sparsity * values.size)]
        values.ravel()[removed] = 0
    largest = np.abs(values).max(initial=1e-9)
    return np.rint(values / largest * highest).astype(np.int8)


def comes_back(codes: np.ndarray, highest: int) -> Coding:
    coding, content = pack_codes(codes, highest)
    assert coding.length == len(content)
    found = unpack_codes(coding, memoryview(content), codes.size, highest)
    assert found.dtype == np.int8 and np.array_equal(found, codes.ravel())
    return coding


shapes = st.tuples(st.integers(0, 40), st.integers(0, 40))
shares = st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99, 1.0])


@settings(max_examples=60, deadline=None)
@given(shapes, shares, st.integers(2, 8), st.integers(0, 9))
def test_codes_of_any_width_come_back(shape: tuple[int, int], share: float, bits: int, seed: int) -> None:
    highest = 2 ** (bits - 1) - 1
    comes_back(drawn(shape, share, highest, seed), highest)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300), shares, st.sampled_from([1, 2, 4, 8]))
def test_any_bit_pattern_comes_back(content: bytes, share: float, itemsize: int) -> None:
    words = np.frombuffer(content[: len(content) // itemsize * itemsize], f"i{itemsize}").copy()
    words[np.random.default_rng(0).random(words.size) < share] = 0
    coding, packed = pack_words(words)
    assert np.array_equal(unpack_words(coding, memoryview(packed), words.size, itemsize), words)


@pytest.mark.parametrize("gap", [0, 1, 253, 254, 255, 256, 509, 510, 511, 5000])
def test_gaps_of_every_length_come_back(gap: int) -> None:
    codes = np.zeros(3 * gap + 2000, np.int8)
    codes[[gap, 2 * gap + 1]] = 5, -5
    coding = comes_back(codes, 127)
    assert coding.positions == "gaps" and coding.count == 2


@pytest.mark.parametrize(
    ("sparsity", "bits"), [(0.9, 8), (0.9, 4), (0.9, 3), (0.9, 2), (0.5, 8), (0.5, 4), (0.0, 8), (0.0, 4)]
)
def test_random_weights_take_little_more_than_their_entropy(sparsity: float, bits: int) -> None:
    highest = 2 ** (bits - 1) - 1
    codes = drawn((768, 768), sparsity, highest)
    bound = entropy_bytes(codes)
    assert bound <= comes_back(codes, highest).length <= 1.015 * bound


def test_a_pruned_weight_of_int8_per_channel_takes_a_seventh_of_a_byte_for_each_entry() -> None:
    torch.manual_seed(0)
    weight, scheme = torch.randn(768, 768), WeightScheme()
    weight[weight.abs() < weight.abs().flatten().kthvalue(530_841).values] = 0
    codes = scheme.codes(weight, scheme.scales(weight)).numpy()
    length = comes_back(codes, scheme.highest).length
    assert length <= 1.03 * entropy_bytes(codes)
    assert length / codes.size == pytest.approx(1 / 7, abs=0.002)


def test_the_entropy_is_that_of_positions_and_values() -> None:
    # Half of 16 are zero, the others two values as often: 16 bits of positions, 8 of values.
    assert entropy_bytes(np.array([0] * 8 + [1] * 4 + [-1] * 4, np.int8)) == pytest.approx(3.0)
    assert entropy_bytes(np.zeros(0, np.int8)) == entropy_bytes(np.ones(9, np.int8)) == 0.0


def test_the_example_of_the_page_is_so() -> None:
    words = np.zeros(20, np.int8)
    words[2] = 3
    coding, content = pack_words(words)
    assert coding == Coding("gaps", 1, (Stream("stored", 1, 1), Stream("stored", 1, 1)))
    assert content == b"\x02\x03"


def test_blocks_cost_less_than_single_weights() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(1, 100, (256, 256)).astype(np.int8)
    codes *= np.kron(generator.random((64, 64)) < 0.1, np.ones((4, 4))).astype(np.int8)
    assert comes_back(codes, 127).streams[0].length < 0.08 * codes.size / 8


def test_exponents_of_floats_are_compressed() -> None:
    words = np.random.default_rng(0).standard_normal(20_000).astype(np.float32).view(np.int32)
    coding, content = pack_words(words)
    assert len(content) < 0.85 * words.nbytes
    assert [stream.method for stream in coding.streams] == ["stored", "stored", "stored", "deflate"]


def test_codes_beyond_the_highest_are_refused() -> None:
    with pytest.raises(ValueError, match="codes from -128 to 3 do not fit -127 to 127"):
        pack_codes(np.array([-128, 3], np.int8), 127)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_decoded_is_refused_or_of_the_size_that_was_asked_for(data: st.DataObject) -> None:
    codes = drawn((8, 30), data.draw(shares), 7)
    coding, content = pack_codes(codes, 7)
    sizes = st.integers(0, 300)
    streams = tuple(
        Stream(
            data.draw(st.sampled_from(["stored", "deflate", stream.method])),
            data.draw(st.just(stream.length) | sizes),
            data.draw(st.just(stream.size) | sizes),
        )
        for stream in coding.streams
    )
    changed = Coding(
        data.draw(st.sampled_from(["all", "gaps", "bitmap", coding.positions])),
        data.draw(st.just(coding.count) | sizes),
        streams[: data.draw(st.integers(0, 3))],
    )
    spoiled = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, len(content)), max_size=3)):
        spoiled[place : place + 1] = bytes([data.draw(st.integers(0, 255))])
    for unpack, width in ((unpack_codes, 7), (unpack_words, 1), (unpack_words, 4)):
        try:
            found = unpack(changed, memoryview(bytes(spoiled)), 240, width)
        except ValueError:
            continue
        assert found.shape == (240,)


def test_a_stream_that_expands_beyond_its_size_is_decoded_no_further() -> None:
    content = zlib.compress(bytes(1 << 24), 9, -15)
    small = Coding("all", 100, (Stream("deflate", len(content), 100),))
    tracemalloc.start()
    with pytest.raises(ValueError, match="do not decompress to 100 bytes"):
        unpack_codes(small, memoryview(content), 100, 127)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("positions", "count", "contents", "entries", "message"),
    [
        ("gaps", 1, (b"\x05", b"\x00"), 5, "a value lies at 5 of 5 entries"),
        ("gaps", 1, (b"\xff", b"\x00"), 300, "0 positions, 1 were expected"),
        ("gaps", 1, (b"\x00\xff", b"\x00"), 300, "1 positions, 1 were expected"),
        ("bitmap", 1, (b"\xc0", b"\x00"), 5, "2 positions, 1 were expected"),
        ("bitmap", 1, (b"\x01", b"\x00"), 5, "1 positions, 1 were expected"),
        ("all", 2, (b"\xe1",), 2, "a byte of its values is 225, not below 225"),
        ("all", 1, (b"\x0f",), 1, "more values than counted"),
    ],
)
def test_positions_and_values_that_contradict_themselves_are_refused(
    positions: str, count: int, contents: tuple[bytes, ...], entries: int, message: str
) -> None:
    streams = tuple(Stream("stored", len(content), len(content)) for content in contents)
    with pytest.raises(ValueError, match=message):
        unpack_codes(Coding(positions, count, streams), memoryview(b"".join(contents)), entries, 7)


def test_stored_bytes_are_as_many_as_they_hold() -> None:
    coding = Coding("all", 2, (Stream("stored", 1, 2),))
    with pytest.raises(ValueError, match="1 bytes are said to hold 2 uncompressed"):
        unpack_words(coding, memoryview(b"a"), 2, 1)
