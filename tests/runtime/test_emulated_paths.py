"""Emulated paths of other processors give the same bits as the path of this one."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hf_sparse.native import build as building
from hf_sparse.runtime.bindings import ACTIVATIONS, Grid, load_kernels, pointer
from hf_sparse.runtime.encoders.places import PlaceTables, half_codes, relation_tables
from hf_sparse.runtime.fused_encoder import EncoderSettings, FusedEncoder, FusedLayer
from hf_sparse.runtime.integer_layer import FIXED, RANGE, SYMMETRIC, IntegerLayer
from hf_sparse.runtime.weight_forms import Form, PackedWeight, pack
from tests.runtime.emulations import EMULATIONS, Emulation, flags_of

KERNELS = load_kernels()
pytestmark = pytest.mark.skipif(KERNELS is None, reason="there is no C++ compiler")
DRIVER = Path(__file__).with_name("driver.cpp")
HEADERS = building._PACKAGE / "runtime" / "kernels"
NONE, LINEAR, ENCODER = (struct.pack("q", number) for number in range(3))
# Rows and groups of features that are kept together; no groups: columns.
FORMS = tuple((tall, groups) for tall in (4, 1) for groups in (1, 2, 0))


def compiled(emulation: Emulation, directory: Path) -> list[str]:
    """Return the command that runs the driver; skip where something is missing."""
    compiler = next(filter(shutil.which, emulation.compilers), None)
    if compiler is None or not all(map(shutil.which, emulation.runner[:1])):
        pytest.skip(f"needs {' or '.join(emulation.compilers)} and {emulation.runner[:1]}")
    if emulation.needs:
        include = [compiler, "-x", "c++", "-E", "-include", emulation.needs, os.devnull]
        if subprocess.run(include, capture_output=True, check=False).returncode:
            pytest.skip(f"needs {emulation.needs}")
    flags = [flag for flag in building._FLAGS if flag != "-shared"]
    built = directory / "driver"
    command = [
        compiler,
        *flags,
        *emulation.flags,
        "-w",
        "-Wno-psabi",
        f"-I{HEADERS}",
        str(DRIVER),
        "-o",
        str(built),
    ]
    subprocess.run(command, check=True)
    return [*emulation.runner, str(built)]


class Problems:
    """Random problems as the driver reads them, each with the outputs of the library of this processor."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.written = bytearray()
        self.expected: list[Tensor] = []

    def among(self, *choices: object) -> object:
        return choices[self.between(0, len(choices) - 1)]

    def between(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def chance(self, share: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) < share

    def weight(self, rows: int, columns: int) -> tuple[PackedWeight, Grid]:
        codes = torch.randint(-127, 128, (rows, columns), generator=self.generator).to(torch.int8)
        codes[~self.chance(self.among(0.0, 0.05, 0.3, 1.0), rows, columns)] = 0
        tall, groups = self.among(*FORMS)
        dynamic = self.among(FIXED, SYMMETRIC, RANGE)
        step, zero = (0.02, self.between(0, 255)) if dynamic == FIXED else (1.0, 0)
        layer = IntegerLayer(codes, self.normal(rows) * 0.003, self.normal(rows), dynamic, step, zero)
        self.numbers(rows, columns, tall, groups or 1, not groups)
        self.written += struct.pack("ffq", step, zero, dynamic)
        self.tensors(codes, layer.multipliers, layer.bias)
        form = Form(tall, groups * KERNELS.group)
        return pack(KERNELS, codes, layer.multipliers, layer.bias, form), Grid(step, zero, dynamic)

    def numbers(self, *numbers: int) -> None:
        self.written += struct.pack(f"{len(numbers)}q", *numbers)

    def tensors(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            self.written += tensor.contiguous().numpy().tobytes()

    def values(self, share: float, *shape: int) -> Tensor:
        values = self.normal(*shape) * self.among(0.01, 1.0, 50.0)
        for special in (float("nan"), float("inf"), float("-inf"), -0.0):
            values[self.chance(share, *shape)] = special
        values[self.chance(0.1, *shape[:-1])] = 0
        return values

    def add_linear(self, largest: tuple[int, int] = (19, 70)) -> None:
        tokens = self.between(1, 70)
        self.written += LINEAR
        packed, grid = self.weight(*(self.between(1, most) for most in largest))
        values = self.values(self.among(0.0, 0.002), tokens, packed.columns)
        self.numbers(tokens, self.among(1, 3))
        self.tensors(values)
        found, matrix = torch.empty(tokens, packed.rows), packed.matrix()
        KERNELS.library.hf_sparse_linear(
            pointer(matrix), pointer(grid), values.data_ptr(), tokens, found.data_ptr(), 1
        )
        self.expected.append(found)

    def add_encoder(self) -> None:
        heads, width, inner = self.among(1, 2, 4), self.among(1, 2, 5, 8, 16), self.between(1, 40)
        batch, length, count = self.between(1, 4), self.between(1, 70), 2
        hidden, activation = heads * width, self.among(*sorted(set(ACTIVATIONS.values())))
        key_heads, gated = self.among(*{1, heads}), self.among(False, True)
        first, centered = self.among(False, True), self.among(False, True)
        kinds, pairs = self.among((0, 0), (0, 0), (2, width // 2)) if width > 1 else (0, 0)
        places, biased, rows = length + 3 if kinds else 0, self.among(0, 0, 1), self.among(0, 0, 16, 32)
        scaling = self.among(width**-0.5, 0.3)
        self.written += ENCODER
        self.numbers(hidden, inner, heads, key_heads, activation, first, centered, 6 + gated, count)
        self.numbers(batch, length, self.among(1, 3), kinds, pairs, places, biased, rows)
        self.written += struct.pack("dd", 1e-12, scaling)
        narrow = key_heads * width
        sizes = [(hidden, hidden), (narrow, hidden), (narrow, hidden), (hidden, hidden)]
        sizes += [(inner, hidden)] * (1 + gated) + [(hidden, inner)]
        layers = []
        for index in range(count):
            linears = [self.weight(*size) for size in sizes]
            leaves_out = first and index == 0 and self.among(False, True)
            rotation, window = self.between(-1, kinds - 1), self.among(-1, -1, 0, 7, 20)
            self.numbers(not leaves_out, rotation, window)
            norms = tuple(self.normal(hidden) + at % 2 for at in range(1, 5))
            norms = (None, None, *norms[2:]) if leaves_out else norms
            self.tensors(*(norm for norm in norms if norm is not None))
            projected = [self.normal(rows, hidden) for _ in range(2)] if rows else []
            for side in projected:
                codes, steps = zip(*map(half_codes, side.chunk(heads, 1)), strict=True)
                self.tensors(torch.stack([one.t() for one in codes]), torch.stack(steps))
            relations = relation_tables(*projected, heads, KERNELS.lanes) if rows else None
            grids = tuple((grid.step, grid.zero, grid.dynamic) for _, grid in linears)
            packed = tuple(weight for weight, _ in linears)
            layers.append(FusedLayer(packed, grids, norms, rotation, window, relations))
        tables = self.tables(kinds, pairs, places, biased * heads, rows, length)
        mask = self.chance(self.among(0.5, 1.0), batch, length)
        self.tensors(mask.to(torch.uint8))
        positions = torch.randint(max(places, 1), (batch, length), generator=self.generator)
        if kinds:
            self.tensors(positions.to(torch.int32))
        states = self.values(self.among(0.0, 0.0, 0.0, 2e-4), batch, length, hidden)
        self.tensors(states)
        settings = EncoderSettings(heads, activation, 1e-12, key_heads, first, centered, scaling)
        encoder = FusedEncoder(KERNELS, layers, settings, tables)
        self.expected.append(encoder(states, mask, positions).last_hidden_state)

    def tables(self, kinds: int, pairs: int, places: int, biased: int, rows: int, length: int) -> PlaceTables:
        angles = self.normal(kinds, places, pairs)
        rotations = torch.cat([angles.cos(), angles.sin()], -1)
        distances = 2 * length - 1 + 16
        biases = self.normal(biased, distances)
        rows_of = torch.linspace(0, max(rows - 1, 0), distances).to(torch.int32)
        self.tensors(rotations, biases)
        if rows:
            self.tensors(rows_of)
        return PlaceTables(
            rotations if kinds else None, biases if biased else None, rows_of if rows else None, rows
        )


def bits(values: Tensor) -> Tensor:
    # Processors give NaN either sign.
    return values.where(~values.isnan(), torch.tensor(float("nan"))).view(torch.int32)


def solved(command: list[str], problems: Problems) -> tuple[Tensor, Tensor]:
    """Return what the driver finds and what the library of this processor found."""
    done = subprocess.run(command, input=problems.written + NONE, stdout=subprocess.PIPE, check=True)
    found = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32)
    return bits(found), bits(torch.cat([values.reshape(-1) for values in problems.expected]))


@pytest.mark.parametrize("name", EMULATIONS)
def test_an_emulated_path_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    command = compiled(EMULATIONS[name], tmp_path)
    problems = Problems(5)
    for _ in range(200):
        problems.add_linear()
    for _ in range(5):
        problems.add_linear(largest=(300, 900))
    for _ in range(80):
        problems.add_encoder()
    found, expected = solved(command, problems)
    assert torch.cat([values.reshape(-1) for values in problems.expected]).isfinite().sum() > 100_000
    assert torch.equal(found, expected)


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    # Stops with an error at an access out of bounds, or where what happens is undefined.
    flags = (
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        *flags_of(KERNELS.path),
    )
    command = compiled(Emulation(building.COMPILERS, flags), tmp_path)
    problems = Problems(8)
    for _ in range(20):
        problems.add_linear()
    for _ in range(40):
        problems.add_encoder()
    found, expected = solved(command, problems)
    assert torch.equal(found, expected)
