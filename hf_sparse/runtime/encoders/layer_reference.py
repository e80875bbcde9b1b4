"""The specification of attention and whole layers in the kernels; see runtime/reference.py."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_sparse.runtime.encoders.places import LOG2_E
from hf_sparse.runtime.integer_layer import IntegerLayer
from hf_sparse.runtime.reference import (
    ACTIVATIONS,
    f32,
    fused,
    halves,
    in_order,
    linear,
    power_of_two,
    whole_products,
)

Norm = tuple[Tensor, Tensor]
# 16-bit codes, as float64, and the step between them.
Coded = tuple[Tensor, Tensor]
SUM_OF_PROBABILITIES, RUN = 131072, 512


@dataclass(frozen=True)
class Distances:
    """How scores depend on places; `columns` (tokens,) has the place of each token in its text.

    `window` is the largest distance that a token sees, or -1. `bias` has what is added to a score times
    log2(e), by `reach` and the place of the query less that of the key; `rows_of` the row of that distance in
    `relations`: codes and step of what queries are multiplied with for each row, and of what keys are.
    """

    columns: Tensor
    window: int = -1
    bias: Tensor | None = None
    reach: int = 0
    rows_of: Tensor | None = None
    relations: tuple[Coded, Coded] | None = None

    def apply(self, scores: Tensor, queries: Coded, keys: Coded, scaling: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (queries, keys), in powers of two, and which are not seen."""
        apart = self.columns[:, None] - self.columns
        if self.relations is not None and self.rows_of is not None:
            rows = self.rows_of[self.reach + apart].long()
            for_queries, for_keys = self.relations
            by_query = _products(queries, for_queries, scaling).gather(1, rows)
            scores = scores + by_query + _products(keys, for_keys, scaling).gather(1, rows.t()).t()
        if self.bias is not None:
            scores = scores + self.bias[self.reach + apart]
        unseen = apart.abs() > self.window if self.window >= 0 else torch.zeros_like(apart, dtype=torch.bool)
        return scores.masked_fill(unseen, -3e38), unseen


def attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scaling: float | None = None,
    distances: Distances | None = None,
) -> Tensor:
    """Return the outputs of one head for one sequence; all tensors are (tokens, width)."""
    if not all(part.isfinite().all() for part in (queries, keys, values)):
        return torch.full_like(queries, math.nan)
    width = queries.shape[1]
    bound = int(min(32767.0, math.floor(math.sqrt(2147483647.0 / width))))
    value_bound = int(min(32767.0, 2147483647.0 / (SUM_OF_PROBABILITIES + RUN)))
    coded_queries, coded_keys = halves(queries, bound), halves(keys, bound)
    (q, q_step), (k, k_step), (v, v_step) = coded_queries, coded_keys, halves(values, value_bound)
    by = f32(width**-0.5 if scaling is None else scaling)
    scores = (q @ k.t()).float()
    if distances is None:
        scale = (q_step * k_step * by * f32(LOG2_E)).clamp(max=3e38)
        apart = torch.maximum(scores - scores.amax(1, keepdim=True), -120 / scale)
        shares = power_of_two(apart, scale)
    else:
        products = _products(coded_queries, coded_keys, by)
        scores, unseen = distances.apply(products, coded_queries, coded_keys, by)
        apart = (scores - scores.amax(1, keepdim=True)).clamp(min=-120.0)
        shares = power_of_two(apart, f32(1.0)).masked_fill(unseen, 0.0)
    most = torch.cat([in_order(run) for run in shares.split(RUN, 1)], 1).amax(1, keepdim=True)
    factor = torch.minimum(SUM_OF_PROBABILITIES / most, torch.tensor(32767.0))
    codes = whole_products(shares, factor).double()
    sums = [(run @ part).float() for run, part in zip(codes.split(RUN, 1), v.split(RUN), strict=True)]
    return in_order(torch.stack(sums, -1))[..., 0] * (v_step / codes.sum(1, keepdim=True).float())


def rotate(values: Tensor, turns: Tensor) -> Tensor:
    """Turn features (tokens, width) by `turns` (tokens, 2 * pairs), cosines and then sines of each pair."""
    pairs = turns.shape[1] // 2
    one, other, rest = values[:, :pairs], values[:, pairs : 2 * pairs], values[:, 2 * pairs :]
    cosines, sines = turns[:, :pairs], turns[:, pairs:]
    return torch.cat([fused(one, cosines, -(other * sines)), fused(other, cosines, one * sines), rest], 1)


def normalize(values: Tensor, weight: Tensor, bias: Tensor, epsilon: float, centered: bool = True) -> Tensor:
    """Return the LayerNorm of values (tokens, features), or their RMSNorm, which subtracts no mean."""
    count = float(values.shape[1])
    apart = values - in_order(values) / count if centered else values
    squares = torch.zeros_like(apart[:, 0])
    for one in apart.unbind(-1):
        squares = fused(one, one, squares)
    # Through float64, which rounds as processors do; float32 `sqrt` of torch may differ in the last bit.
    deviation = (squares[:, None] / count + f32(epsilon)).double().sqrt().float()
    return fused(apart * (1 / deviation), weight, bias)


@dataclass(frozen=True)
class Variant:
    """How a layer differs from that of BERT.

    The heads of queries share `key_heads` heads of keys and values. `norms_first` puts norms before attention
    and feed-forward layer; without `centered` they are RMSNorms. Scores are multiplied with `scaling`.
    `turns` rotate queries and keys. `distances` has an entry for each head.
    """

    key_heads: int | None = None
    norms_first: bool = False
    centered: bool = True
    scaling: float | None = None
    turns: Tensor | None = None
    distances: Sequence[Distances | None] | None = None


BERT = Variant()


def encoder_layer(
    linears: Sequence[IntegerLayer],
    norms: tuple[Norm | None, Norm],
    heads: int,
    activation: int,
    epsilon: float,
    states: Tensor,
    variant: Variant = BERT,
) -> Tensor:
    """Return the outputs of a layer for one sequence (tokens, hidden).

    `linears` are ordered as LINEARS, six of them or seven with a gate.
    """
    query, key, value, output, intermediate, *gate, last = linears
    first, turns, distances = variant.norms_first, variant.turns, variant.distances
    sharing, width = heads // (variant.key_heads or heads), states.shape[1] // heads

    def norm(values: Tensor, which: Norm | None) -> Tensor:
        if which is None:
            return values
        return normalize(values, *which, epsilon, variant.centered)

    inputs = norm(states, norms[0]) if first else states
    queries, keys, looked_at = (linear(layer, inputs).split(width, 1) for layer in (query, key, value))
    if turns is not None:
        queries, keys = ([rotate(head, turns) for head in one] for one in (queries, keys))
    looked = torch.cat(
        [
            attention(
                queries[head],
                keys[head // sharing],
                looked_at[head // sharing],
                variant.scaling,
                None if distances is None else distances[head],
            )
            for head in range(heads)
        ],
        1,
    )
    states = states + linear(output, looked)
    states = states if first else norm(states, norms[0])
    inputs = norm(states, norms[1]) if first else states
    between = ACTIVATIONS[activation](linear(intermediate, inputs))
    for layer in gate:
        between = between * linear(layer, inputs)
    states = states + linear(last, between)
    return states if first else norm(states, norms[1])


def _products(ones: Coded, others: Coded, scaling: Tensor) -> Tensor:
    """Return the scores (ones, others), in powers of two."""
    step = (ones[1] * others[1] * scaling * f32(LOG2_E)).clamp(max=1e28)
    return (ones[0] @ others[0].t()).float() * step
