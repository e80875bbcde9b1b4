"""Load the compiled kernels of one path; the `ctypes` structures that they read."""

import ctypes
from dataclasses import dataclass

from hf_sparse.native.build import load_first, once
from hf_sparse.runtime.cpu import chosen_paths

_SIZE, _POINTER, _FLOAT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float


class Matrix(ctypes.Structure):
    """A weight in the memory layout of the structure `Matrix` in kernels/product.h."""

    _fields_ = [
        *((name, _SIZE) for name in ("rows", "columns", "tall", "wide", "by_columns")),
        *((name, _POINTER) for name in ("starts", "indices", "words", "multipliers", "biases", "row_sums")),
    ]


class Rows(ctypes.Structure):
    """A weight in the memory layout of the structure `Rows` in kernels/few_tokens.h."""

    _fields_ = [
        *((name, _SIZE) for name in ("rows", "columns")),
        *((name, _POINTER) for name in ("kept", "codes", "starts", "multipliers", "biases", "row_sums")),
    ]


class Grid(ctypes.Structure):
    """The grid that an input is rounded to; the structure `Grid` in kernels/tiles.h."""

    _fields_ = [("step", _FLOAT), ("zero", _FLOAT), ("dynamic", _SIZE)]


LINEARS = ("query", "key", "value", "output", "intermediate", "gate", "last")
NORMS = ("first_weight", "first_bias", "second_weight", "second_bias")


class Relations(ctypes.Structure):
    """The tables of a layer for relative positions; the structure `Relations` in kernels/places.h."""

    _fields_ = [(name, _POINTER) for name in ("keys", "queries", "key_steps", "query_steps")]


class Layer(ctypes.Structure):
    """The weights, grids and norms of a layer; the structure `Layer` in kernels/encoder.h."""

    _fields_ = [
        *((name, Matrix) for name in LINEARS),
        *((f"{name}_grid", Grid) for name in LINEARS),
        *((name, _POINTER) for name in NORMS),
        *((name, _SIZE) for name in ("rotation", "window")),
        ("relations", Relations),
    ]


class Places(ctypes.Structure):
    """The tables of places; the structure `Places` in kernels/places.h."""

    _fields_ = [
        ("rotations", _POINTER),
        *((name, _SIZE) for name in ("pairs", "count")),
        *((name, _POINTER) for name in ("biases", "rows_of")),
        *((name, _SIZE) for name in ("rows", "reach")),
    ]


class Encoder(ctypes.Structure):
    """The layers and sizes of an encoder; the structure `Encoder` in kernels/encoder.h."""

    _fields_ = [
        *((name, _SIZE) for name in ("hidden", "inner", "heads", "key_heads", "activation")),
        *((name, _SIZE) for name in ("norms_first", "centered", "count")),
        ("layers", ctypes.POINTER(Layer)),
        *((name, ctypes.c_double) for name in ("epsilon", "scaling")),
        ("places", Places),
    ]


# The number of each activation in kernels/functions.h, by its name in configurations of transformers.
ACTIVATIONS = {
    "relu": 1,
    "gelu": 2,
    "gelu_new": 3,
    "gelu_pytorch_tanh": 3,
    "gelu_fast": 3,
    "silu": 4,
    "swish": 4,
}


@dataclass(frozen=True, eq=False)
class Kernels:
    """The compiled library of one path.

    Attributes:
        path: Name of the path.
        library: The loaded library.
        group: Number of features in a word.
        tokens: Number of tokens in a tile.
        lanes: Number of lanes in a vector.
        few: Number of tokens up to which `hf_sparse_linear_few` computes a layer.
    """

    path: str
    library: ctypes.CDLL
    group: int
    tokens: int
    lanes: int
    few: int


@once
def load_kernels(name: str | None = None) -> Kernels | None:
    """Return the kernels of the named path, or of the best one that this processor and compiler support.

    Without a compiler return None, after one warning. Raises `ValueError` if the processor cannot run the
    named path.
    """
    paths = chosen_paths(name)
    found = load_first("runtime/kernels/kernels.cpp", *(path.flags for path in paths))
    if found is None:
        return None
    number, library = found
    path = paths[number]
    for function in ("group", "tokens", "lanes", "few", "spreads_bytes"):
        getattr(library, f"hf_sparse_{function}").restype = _SIZE
    library.hf_sparse_count_entries.argtypes = [_POINTER, *[_SIZE] * 5, _POINTER]
    library.hf_sparse_count_entries.restype = _SIZE
    library.hf_sparse_fill_entries.argtypes = [_POINTER, *[_SIZE] * 5, _POINTER, _POINTER, _POINTER]
    library.hf_sparse_fill_entries.restype = None
    library.hf_sparse_sum_rows.argtypes = [_POINTER, _SIZE, _SIZE, _POINTER]
    library.hf_sparse_sum_rows.restype = None
    library.hf_sparse_trim.restype = None
    for function in ("linear", "linear_few"):
        linear = getattr(library, f"hf_sparse_{function}")
        linear.argtypes, linear.restype = [_POINTER, _POINTER, _POINTER, _SIZE, _POINTER, _SIZE], _SIZE
    library.hf_sparse_encode.argtypes = [*[_POINTER] * 4, _SIZE, _SIZE, _POINTER, _SIZE]
    library.hf_sparse_encode.restype = _SIZE
    return Kernels(
        path.name,
        library,
        library.hf_sparse_group(),
        library.hf_sparse_tokens(),
        library.hf_sparse_lanes(),
        library.hf_sparse_few(),
    )


def require_memory(result: int) -> None:
    """Raise `MemoryError` if a function of the kernels returned 1 for too little memory."""
    if result:
        raise MemoryError("there is not enough memory for so many tokens; take a smaller batch")


def pointer(structure: ctypes.Structure) -> ctypes.c_void_p:
    """Return the address of a structure; the structure must live as long as the address is used."""
    return ctypes.c_void_p(ctypes.addressof(structure))
