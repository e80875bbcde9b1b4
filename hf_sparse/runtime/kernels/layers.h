// One layer for a chunk of tiles: the codes of its input, its product, and where the outputs go.

#pragma once

#include "tiles.h"

namespace {

// Tiles in a chunk: the values between the two products of a layer should stay in the cache.
constexpr int64_t CHUNK = 128 / TOKENS > 0 ? 128 / TOKENS : 1;

// Stores the features of a stripe in a tile.
inline void put(const Float found[ROWS][DEPTH], int64_t stripe, int64_t features, float* tile) {
    for (int row = 0; row < ROWS && stripe * ROWS + row < features; row++)
        for (int part = 0; part < DEPTH; part++)
            store(tile + (stripe * ROWS + row) * TOKENS + part * LANES, found[row][part]);
}

// Adds them to those in the tile, and the sums to the sums of each token.
inline void add(const Float found[ROWS][DEPTH], int64_t stripe, int64_t features, float* tile, Float sums[DEPTH]) {
    for (int row = 0; row < ROWS && stripe * ROWS + row < features; row++)
        for (int part = 0; part < DEPTH; part++) {
            float* to = tile + (stripe * ROWS + row) * TOKENS + part * LANES;
            const Float sum = load(to) + found[row][part];
            store(to, sum);
            sums[part] += sum;
        }
}

// Notes the largest absolute value of each token, as an integer, among COUNT features of one head.
template <int COUNT>
inline void note_largest(const Float found[COUNT][DEPTH], int32_t* largest, int64_t heads) {
#pragma GCC unroll 4
    for (int part = 0; part < DEPTH; part++, largest += heads * LANES) {
        Int most = load(largest);
#pragma GCC unroll 4
        for (int row = 0; row < COUNT; row++) most = larger(most, size_of(found[row][part]));
        store(largest, most);
    }
}

// The codes of the input of a layer, kept for the next layer if it has the same input and grid.
struct Codes {
    int32_t* tiles;
    Scales scales[CHUNK] = {};
    const float* source = nullptr;
    Grid grid = {};
    bool lines = false;

    // Marks tokens that were broken earlier: an activation may have turned NaN into a number.
    void inherit(const Codes& earlier, int64_t count) {
        for (int64_t tile = 0; tile < count; tile++) {
            if (!earlier.scales[tile].any_broken) continue;
            scales[tile].any_broken = true;
            for (int part = 0; part < DEPTH; part++)
                scales[tile].broken[part] |= earlier.scales[tile].broken[part];
        }
    }

    void make(const Grid& wanted, bool in_lines, const float* values, int64_t features, int64_t count) {
        if (values == source && in_lines == lines && wanted.step == grid.step && wanted.zero == grid.zero &&
            wanted.dynamic == grid.dynamic)
            return;
        source = values, grid = wanted, lines = in_lines;
        for (int64_t tile = 0; tile < count; tile++) {
            const float* from = values + tile * features * TOKENS;
            scales[tile] = grid.dynamic ? dynamic_scales(grid, from, features) : fixed_scales(grid);
            quantize(scales[tile], grid, from, features, lines, tiles + tile * tile_words(padded(features)));
        }
    }

    // The codes of one tile for a reader, as normalize(read) gives its values, which are kept from `values` on.
    template <typename Normalize>
    void make_normalized(const Grid& wanted, bool in_lines, float* values, int64_t features, int64_t tile,
                         const Normalize& normalize) {
        float* const to = values + tile * features * TOKENS;
        int32_t* const into = tiles + tile * tile_words(padded(features));
        source = values, grid = wanted, lines = in_lines;
        if (grid.dynamic) {
            Range range;
            normalize([&](int64_t first, const Float found[ROWS][DEPTH]) {
                put(found, first / ROWS, features, to);
                for (int row = 0; row < ROWS; row++) range.take(found[row]);
            });
            scales[tile] = range.scales(grid);
            quantize(scales[tile], grid, to, features, lines, into);
            return;
        }
        scales[tile] = fixed_scales(grid);
        Rounding rounding(scales[tile], grid, lines, into);
        normalize([&](int64_t first, const Float found[ROWS][DEPTH]) {
            put(found, first / ROWS, features, to);
            rounding.take(first, found);
        });
        rounding.finish();
    }
};

// Calls take(stripe, tile, floats) with the product of a matrix and tiles of codes.
template <typename Take>
inline void product(const Matrix& matrix, const Codes& codes, int64_t count, const Take& take) {
    const int64_t size = tile_words(padded(matrix.columns));
    for (int64_t first = 0, next; first < stripes(matrix.rows); first = next) {
        next = panel(matrix, first);
        for (int64_t tile = 0; tile < count; tile++)
            for (int64_t stripe = first; stripe < next; stripe++) {
                alignas(64) int32_t initial[ROWS], sums[ROWS * TOKENS];
                initial_sums(matrix, stripe, codes.grid, initial);
                multiply(matrix, stripe, codes.tiles + tile * size, initial, sums);
                Float found[ROWS][DEPTH];
                restore(matrix, stripe, codes.grid, codes.scales[tile], sums, found);
                take(stripe, tile, found);
            }
    }
}

}  // namespace
