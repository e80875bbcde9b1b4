// Places of tokens in their sequence: rotated queries and keys, and what places add to scores.

#pragma once

#include "tiles.h"

namespace {

// What an encoder knows of places. Rotations are [kind][place][cosines, then sines, of each pair of features];
// biases, for powers of two, are [head][reach + query - key], with a vector of padding. Distances, [reach + query -
// key] as well, share the row of a table of `rows`, which never falls as they grow.
struct Places {
    const float* rotations;
    int64_t pairs, count;
    const float* biases;
    const int32_t* rows_of;
    int64_t rows, reach;
};

// 16-bit codes of what queries and keys of one layer are multiplied with for each row of distances, and the steps
// between them, [head]. Words of two features are [head][pair][row] in `keys`, and [head][vector of rows][pair][row]
// in `queries`, with `rows` padded to whole vectors. Both are null, or neither.
struct Relations {
    const int32_t *keys, *queries;
    const float *key_steps, *query_steps;
    bool any() const { return keys != nullptr; }
};

// How the scores of a head depend on places. `columns` has the place of each token in the tiles, and ascends within a
// sequence; `window` is the largest distance that a query sees, or -1; `bias` is that of distance 0, or null.
struct Distances {
    const int32_t* columns;
    int64_t window;
    const float* bias;
    const int32_t* rows_of;  // the row of distance 0
    int64_t rows;
    Relations relations;  // of this head
    bool any() const { return window >= 0 || bias != nullptr || relations.any(); }
};

// Scores by row of distances: of queries, [row][BLOCK of queries], and of keys, [key][row]; null without relations.
struct ByRow {
    const float *queries, *keys;
};

// Lower than any score; the score of a key that a query does not see.
constexpr float UNSEEN = -3e38f, LOWEST_SCORE = -1e38f;

// Rotates the features of a head in a tile: each of its first half with one of its second half.
inline void rotate(float* values, int64_t half, const float* turns) {
    const float* sines = turns + half * TOKENS;
    for (int64_t pair = 0; pair < half; pair++)
        for (int part = 0; part < DEPTH; part++) {
            const int64_t at = pair * TOKENS + part * LANES;
            float *first = values + at, *second = first + half * TOKENS;
            const Float one = load(first), other = load(second), cosine = load(turns + at), sine = load(sines + at);
            store(first, fused(one, cosine, -(other * sine)));
            store(second, fused(other, cosine, one * sine));
        }
}

// Scores of one key for a vector of queries whose places are `queries`, in powers of two.
template <int BLOCK>
inline Float score(Int sums, Float scale, const Distances& distances, ByRow by_row, Int queries, int32_t key,
                   bool contiguous) {
    Float found = to_float(sums) * scale;
    if (by_row.queries != nullptr) {
        const int32_t* rows = distances.rows_of - key;
        float ones[LANES], others[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            const int32_t row = rows[queries[lane]];
            ones[lane] = by_row.queries[row * BLOCK + lane], others[lane] = by_row.keys[row];
        }
        found = found + load(ones) + load(others);
    }
    if (distances.bias != nullptr) {
        const float* bias = distances.bias - key;
        if (contiguous) {
            found += load(bias + queries[0]);
        } else {
            float each[LANES];
            for (int lane = 0; lane < LANES; lane++) each[lane] = bias[queries[lane]];
            found += load(each);
        }
    }
    if (distances.window >= 0) {
        const Int apart = queries - key, window = every((int32_t)distances.window);
        const Int unseen = (Int)(apart > window) | (Int)(apart < -window);
        found = number((bits(found) & ~unseen) | (bits(every(UNSEEN)) & unseen));
    }
    return found;
}

}  // namespace
