"""Bytes and seconds of coders for sparse quantized weights, on as many as BERT-base's encoder has."""

import argparse
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import constriction
import numpy as np
import torch
import zstandard
from rich.progress import track

from hf_sparse.checkpoint.packed.codec import pack_codes, unpack_codes
from hf_sparse.checkpoint.sizes import entropy_bytes
from hf_sparse.quantization.weights import WeightScheme
from hf_sparse.sparsity.numpy_ops import parallel_map
from measuring import write_results

LAYERS = 12
LAYER = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
CASES = [(0.9, 8), (0.9, 4), (0.8, 8)]


class Coder(NamedTuple):
    """A coder: `pack` returns the size and the packed codes, from which `unpack` restores them."""

    pack: Callable[[np.ndarray, int], tuple[int, Any]]
    unpack: Callable[[Any], np.ndarray]


def gaps_and_values(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the runs of zeros before non-zero codes as bytes (255: the run goes on), and those codes."""
    flat = codes.reshape(-1)
    kept = np.flatnonzero(flat)
    escapes, rest = np.divmod(np.diff(kept, prepend=-1) - 1, 255)
    gaps = np.full(len(kept) + escapes.sum(), 255, np.uint8)
    gaps[np.arange(len(kept)) + np.cumsum(escapes)] = rest
    return gaps, flat[kept].view(np.uint8)


def placed(gaps: np.ndarray, values: np.ndarray, entries: int) -> np.ndarray:
    flat = np.zeros(entries, np.uint8)
    ends = np.flatnonzero(gaps != 255)
    flat[np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(len(ends))] = values
    return flat.view(np.int8)


def pack_here(codes: np.ndarray, highest: int) -> tuple[int, Any]:
    coding, content = pack_codes(codes, highest)
    return len(content), (coding, memoryview(content), codes.size, highest)


def pack_bitmap(codes: np.ndarray, highest: int) -> tuple[int, Any]:
    flat = codes.reshape(-1)
    parts = [zstandard.compress(part.tobytes(), 9) for part in (np.packbits(flat != 0), flat[flat != 0])]
    return sum(map(len, parts)), (*parts, codes.size)


def unpack_bitmap(packed: tuple[bytes, bytes, int]) -> np.ndarray:
    bits, values = (np.frombuffer(zstandard.decompress(part), np.uint8) for part in packed[:2])
    flat = np.zeros(packed[2], np.uint8)
    flat[np.flatnonzero(np.unpackbits(bits))] = values
    return flat.view(np.int8)


def pack_gaps_by_zstandard(codes: np.ndarray, highest: int) -> tuple[int, Any]:
    # Shorter matches than 7 bytes are skipped: in random bytes they cost more than they save.
    settings = zstandard.ZstdCompressionParameters.from_level(1, min_match=7, window_log=17, hash_log=6)
    machine = zstandard.ZstdCompressor(compression_params=settings)
    parts = [machine.compress(part.tobytes()) for part in gaps_and_values(codes)]
    return sum(map(len, parts)), (*parts, codes.size)


def unpack_gaps_by_zstandard(packed: tuple[bytes, bytes, int]) -> np.ndarray:
    return placed(
        *(np.frombuffer(zstandard.decompress(part), np.uint8) for part in packed[:2]), entries=packed[2]
    )


def pack_by_ans(codes: np.ndarray, highest: int) -> tuple[int, Any]:
    size, streams = 0, []
    for symbols in gaps_and_values(codes):
        counts = np.bincount(symbols, minlength=256)
        model = constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
        machine = constriction.stream.stack.AnsCoder()
        machine.encode_reverse(symbols.astype(np.int32), model)
        content = machine.get_compressed()
        # A file holds the frequencies too, in 16 bits each.
        size += content.nbytes + 2 * int(np.count_nonzero(counts))
        streams.append((content, model, len(symbols)))
    return size, (*streams, codes.size)


def unpack_by_ans(packed: tuple[Any, Any, int]) -> np.ndarray:
    gaps, values = (
        constriction.stream.stack.AnsCoder(content).decode(model, count).astype(np.uint8)
        for content, model, count in packed[:2]
    )
    return placed(gaps, values, packed[2])


CODERS = {
    "hf_sparse: DEFLATE, Huffman codes of gaps and values": Coder(
        pack_here, lambda packed: unpack_codes(*packed)
    ),
    "zstandard, bitmap and values": Coder(pack_bitmap, unpack_bitmap),
    "zstandard, Huffman codes of gaps and values": Coder(pack_gaps_by_zstandard, unpack_gaps_by_zstandard),
    "constriction, ANS of gaps and values": Coder(pack_by_ans, unpack_by_ans),
}


def drawn(sparsity: float, bits: int) -> list[np.ndarray]:
    """Draw Gaussian weights, remove the smallest of each matrix, round per output channel."""
    scheme, generator, drawn = WeightScheme(bits), torch.Generator().manual_seed(0), []
    for shape in LAYER * LAYERS:
        weight = torch.randn(shape, generator=generator)
        size = weight.abs().flatten()
        weight[weight.abs() <= size.kthvalue(int(sparsity * size.numel())).values] = 0
        drawn.append(scheme.codes(weight, scheme.scales(weight)).numpy())
    return drawn


def seconds(work: Callable[[], object], threads: int, repeats: int) -> float:
    torch.set_num_threads(threads)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def measure(weights: Sequence[np.ndarray], coder: Coder, highest: int, repeats: int) -> dict[str, float]:
    """Pack once, check that all comes back, unpack as often as asked for."""
    started = time.perf_counter()
    packed = parallel_map(lambda codes: coder.pack(codes, highest), weights)
    packing = time.perf_counter() - started
    contents = [content for _, content in packed]
    for codes, found in zip(weights, parallel_map(coder.unpack, contents), strict=True):
        if not np.array_equal(codes.reshape(-1), found):
            raise ValueError("the coder did not restore the codes")
    size = sum(length for length, _ in packed)
    return {
        "MB": round(size / 1e6, 3),
        "bytes a weight": round(size / sum(codes.size for codes in weights), 5),
        "of the entropy": round(size / sum(map(entropy_bytes, weights)), 4),
        "pack s, 2 threads": round(packing, 2),
        **{
            f"unpack s, {threads} thread{'s' * (threads > 1)}": round(
                seconds(lambda: parallel_map(coder.unpack, contents), threads, repeats), 3
            )
            for threads in (1, 2)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(2)
    rows = []
    for sparsity, bits in track(CASES, description="Packing"):
        weights = drawn(sparsity, bits)
        for name, coder in CODERS.items():
            row = {"weights": f"{sparsity:.0%} sparse int{bits}", "coder": name}
            rows.append(row | measure(weights, coder, 2 ** (bits - 1) - 1, repeats))
            print(rows[-1])
            torch.set_num_threads(2)
    settings = {
        "weights": LAYERS * sum(rows * columns for rows, columns in LAYER),
        "repeats": repeats,
        "zstandard": version("zstandard"),
        "constriction": version("constriction"),
    }
    print(write_results("packing", "Coders for sparse quantized weights", rows, settings, list(rows[0])))


if __name__ == "__main__":
    main()
