// A sparse weight times activations, as exact sums of integers.
//
// A weight is cut into stripes of ROWS rows, and the weights of a stripe that are not zero into entries, of one of
// two kinds:
//
//   blocks   tall x (wide * GROUP) adjacent weights. An entry has one index, of its first group of features, and
//            wide * tall words of weights.
//   columns  any GROUP columns of a stripe, or of one of its rows. An entry has GROUP indices and tall words.
//
// tall is ROWS or 1. If it is 1, the entries of each row are consecutive, and each row has its own start.

#pragma once

#include <algorithm>

#include "vectors.h"

namespace {

struct Matrix {
    int64_t rows, columns;
    int64_t tall, wide, by_columns;
    const uint32_t* starts;    // rows / tall + 1, rows rounded up to stripes
    const uint16_t* indices;
    const int32_t* words;
    const float* multipliers;  // rows: the step of a weight, times that of the input where it is fixed
    const float* biases;       // rows
    const int32_t* row_sums;   // rows: the sum of the codes of a row
};

inline int64_t stripes(int64_t rows) { return (rows + ROWS - 1) / ROWS; }
// Features are padded to whole stripes, so that stripes of outputs are whole groups of inputs.
inline int64_t padded(int64_t features) { return stripes(features) * ROWS; }

// Words of a tile of codes, for padded(features); a tile of lines is as large.
constexpr int64_t tile_words(int64_t features) { return features / GROUP * TOKENS; }

// Entries to prefetch ahead, where activations exceed the first cache level and the processor cannot predict the
// next address: a fifth faster on AVX2. Callers append at least as many unused indices.
constexpr int AHEAD = 6;
constexpr int64_t NEAR_BYTES = 32 * 1024;

template <int TALL, int PARTS>
inline void begin(const int32_t* initial, Int (&kept)[TALL][PARTS]) {
#pragma GCC unroll 8
    for (int row = 0; row < TALL; row++)
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++) kept[row][part] = every(initial[row]);
}

template <int TALL, int WIDE, int PARTS, bool LOOKS_AHEAD = false>
inline void add_blocks(const Matrix& matrix, uint32_t from, uint32_t to, const int32_t* tile,
                       const int32_t* initial, int32_t* sums) {
    Int kept[TALL][PARTS];
    begin(initial, kept);
    const int32_t* weights = matrix.words + (int64_t)from * TALL * WIDE;
    for (uint32_t entry = from; entry < to; entry++, weights += TALL * WIDE) {
        const int32_t* group = tile + (int64_t)matrix.indices[entry] * TOKENS;
        if constexpr (LOOKS_AHEAD) {
            const int32_t* next = tile + (int64_t)matrix.indices[entry + AHEAD] * TOKENS;
#pragma GCC unroll 8
            for (int line = 0; line < WIDE * TOKENS / 16; line++) __builtin_prefetch(next + line * 16);
        }
#pragma GCC unroll 8
        for (int step = 0; step < WIDE; step++, group += TOKENS) {
            Int words[PARTS];
#pragma GCC unroll 8
            for (int part = 0; part < PARTS; part++) words[part] = load(group + part * LANES);
#pragma GCC unroll 8
            for (int row = 0; row < TALL; row++) {
                const Int weight = every(weights[step * TALL + row]);
#pragma GCC unroll 8
                for (int part = 0; part < PARTS; part++)
                    kept[row][part] = dot(kept[row][part], words[part], weight);
            }
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < TALL; row++)
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++) store(sums + row * TOKENS + part * LANES, kept[row][part]);
}

template <int TALL>
inline void add_columns(const Matrix& matrix, uint32_t from, uint32_t to, const int32_t* tile,
                        const int32_t* initial, int32_t* sums) {
    const Line* lines = reinterpret_cast<const Line*>(tile);
    Int kept[TALL][DEPTH];
    begin(initial, kept);
    const int32_t* weights = matrix.words + (int64_t)from * TALL;
    const uint16_t* indices = matrix.indices + (int64_t)from * GROUP;
    for (uint32_t entry = from; entry < to; entry++, weights += TALL, indices += GROUP) {
        const Code* chosen[GROUP];
#pragma GCC unroll 8
        for (int feature = 0; feature < GROUP; feature++) chosen[feature] = lines[indices[feature]];
        Int found[DEPTH];
        words(chosen, found);
#pragma GCC unroll 8
        for (int row = 0; row < TALL; row++) {
            const Int weight = every(weights[row]);
#pragma GCC unroll 8
            for (int part = 0; part < DEPTH; part++) kept[row][part] = dot(kept[row][part], found[part], weight);
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < TALL; row++)
#pragma GCC unroll 8
        for (int part = 0; part < DEPTH; part++) store(sums + row * TOKENS + part * LANES, kept[row][part]);
}

// Entries of one row. Sums of every other entry are kept apart: a product has to wait for the last one of the same
// sum, longer than the processor takes for an entry.
template <int WIDE>
inline void add_row(const Matrix& matrix, uint32_t from, uint32_t to, const int32_t* tile, const int32_t* initial,
                    int32_t* sums) {
    Int kept[DEPTH], other[DEPTH] = {};
    for (int part = 0; part < DEPTH; part++) kept[part] = every(*initial);
    const int32_t* weights = matrix.words + (int64_t)from * WIDE;
    const auto add = [&](const uint32_t entry, Int(&to)[DEPTH]) {
        const int32_t* group = tile + (int64_t)matrix.indices[entry] * TOKENS;
#pragma GCC unroll 8
        for (int step = 0; step < WIDE; step++, group += TOKENS) {
            const Int weight = every(*weights++);
#pragma GCC unroll 8
            for (int part = 0; part < DEPTH; part++) to[part] = dot(to[part], load(group + part * LANES), weight);
        }
    };
    uint32_t entry = from;
    for (; entry + 1 < to; entry += 2) add(entry, kept), add(entry + 1, other);
    if (entry < to) add(entry, kept);
#pragma GCC unroll 8
    for (int part = 0; part < DEPTH; part++) store(sums + part * LANES, kept[part] + other[part]);
}

// Vectors of tokens for which the sums of four rows are kept at a time: more do not fit the registers.
constexpr int HELD = LANES == 8 && DEPTH == 4 ? 2 : DEPTH;

// Whether tiles are large and entries few. Entries of a dense weight are consecutive, which processors predict.
inline bool far_apart(const Matrix& matrix) {
    if (GROUP != 2 || tile_words(padded(matrix.columns)) * 4 <= 2 * NEAR_BYTES) return false;
    const int64_t entries = matrix.starts[stripes(matrix.rows)];
    return 2 * entries * matrix.wide * GROUP < stripes(matrix.rows) * matrix.columns;
}

template <int WIDE>
inline void stripe_of_blocks(const Matrix& matrix, int64_t stripe, const int32_t* tile, const int32_t* initial,
                             int32_t* sums) {
    if (matrix.tall == 1) {
        const uint32_t* starts = matrix.starts + stripe * ROWS;
        for (int row = 0; row < ROWS; row++)
            add_row<WIDE>(matrix, starts[row], starts[row + 1], tile, initial + row, sums + row * TOKENS);
    } else if (far_apart(matrix)) {
        const uint32_t* starts = matrix.starts + stripe;
        add_blocks<ROWS, WIDE, DEPTH, true>(matrix, starts[0], starts[1], tile, initial, sums);
    } else {
        const uint32_t* starts = matrix.starts + stripe;
        for (int part = 0; part < DEPTH; part += HELD)
            add_blocks<ROWS, WIDE, HELD>(matrix, starts[0], starts[1], tile + part * LANES, initial,
                                         sums + part * LANES);
    }
}

// sums[ROWS][TOKENS] of one stripe over one tile, from `initial` on, one for each row. Not inlined, so that it is
// compiled once.
__attribute__((noinline)) void multiply(const Matrix& matrix, int64_t stripe, const int32_t* tile,
                                        const int32_t* initial, int32_t* sums) {
    if (!matrix.by_columns) {
        if (matrix.wide == 1)
            stripe_of_blocks<1>(matrix, stripe, tile, initial, sums);
        else
            stripe_of_blocks<2>(matrix, stripe, tile, initial, sums);
    } else if (matrix.tall == 1) {
        const uint32_t* starts = matrix.starts + stripe * ROWS;
        for (int row = 0; row < ROWS; row++)
            add_columns<1>(matrix, starts[row], starts[row + 1], tile, initial + row, sums + row * TOKENS);
    } else {
        add_columns<ROWS>(matrix, matrix.starts[stripe], matrix.starts[stripe + 1], tile, initial, sums);
    }
}

// The end of the stripes from `first` on whose entries fit the second cache level together; all tiles are multiplied
// with them before the next ones. Their rows fill whole vectors.
inline int64_t panel(const Matrix& matrix, int64_t first) {
    constexpr int64_t BYTES = 192 * 1024;
    const int64_t per_stripe = matrix.tall == 1 ? ROWS : 1;
    const int64_t entry = matrix.by_columns ? 4 * matrix.tall + 2 * GROUP : 4 * matrix.tall * matrix.wide + 2;
    constexpr int64_t SET = LANES > ROWS ? LANES / ROWS : 1;
    const int64_t last = stripes(matrix.rows);
    int64_t next = std::min(first + SET, last);
    while (next < last) {
        const int64_t more = std::min(next + SET, last);
        if ((matrix.starts[more * per_stripe] - matrix.starts[first * per_stripe]) * entry > BYTES) break;
        next = more;
    }
    return next;
}

}  // namespace
