// One layer alone: rows of floats in and out, one row for each token.

#pragma once

#include "encoder.h"

namespace {

struct ForLinear;

// Outputs are written in whole vectors of so many features.
constexpr int64_t COLLECTED = LANES > ROWS ? LANES : ROWS;

// Features of a tile that are transposed at a time: they stay in the first cache level until they are rounded.
constexpr int64_t SLAB = 64;

// Rounds rows to codes of a fixed grid, without a tile of floats in between.
inline void round_rows(Scales& scales, const Grid& grid, const float* const rows[TOKENS], int64_t features, bool lines,
                       int32_t* tile) {
    alignas(64) float slab[SLAB * TOKENS];
    scales = fixed_scales(grid);
    Rounding rounding(scales, grid, lines, tile);
    for (int64_t first = 0; first < features; first += SLAB) {
        const int64_t some = std::min(SLAB, features - first);
        into_tile(rows, first, some, slab);
        round_some(rounding, slab, first, some);
    }
    rounding.finish();
}

inline void apply(const Matrix& matrix, const Grid& grid, const float* input, int64_t tokens, float* output,
                  int threads) {
    const int64_t tiles = (tokens + TOKENS - 1) / TOKENS, rows = matrix.rows, columns = matrix.columns;
    const int64_t words = tile_words(padded(columns)), chunk = std::min(CHUNK, tiles);
    const int64_t each = lined(chunk * (words + (grid.dynamic ? columns * TOKENS : 0)));
    const int wanted = (int)std::min<int64_t>(threads, tiles);
    const Scratch<ForLinear> memory(std::max(wanted, 1) * each);
    int32_t* const all = memory.words();
    const auto work = [&](int member, int members, Barrier&) {
        int32_t* own = all + member * each;
        float* floats = reinterpret_cast<float*>(own + chunk * words);
        alignas(64) float collected[COLLECTED * TOKENS];
        Codes codes{own};
        const int64_t to = tiles * (member + 1) / members;
        for (int64_t first = tiles * member / members; first < to; first += chunk) {
            const int64_t count = std::min(chunk, to - first);
            for (int64_t tile = 0; tile < count; tile++) {
                const float* from[TOKENS];
                for (int64_t token = 0; token < TOKENS; token++) {
                    const int64_t place = (first + tile) * TOKENS + token;
                    from[token] = place < tokens ? input + place * columns : nullptr;
                }
                if (grid.dynamic)
                    into_tile(from, 0, columns, floats + tile * columns * TOKENS);
                else
                    round_rows(codes.scales[tile], grid, from, columns, matrix.by_columns, codes.tiles + tile * words);
            }
            codes.source = nullptr;
            codes.grid = grid, codes.lines = matrix.by_columns;
            if (grid.dynamic) codes.make(grid, matrix.by_columns, floats, columns, count);
            product(matrix, codes, count, [&](int64_t stripe, int64_t tile, const Float found[ROWS][DEPTH]) {
                const int64_t row = stripe * ROWS, within = row % COLLECTED;
                for (int next = 0; next < ROWS; next++)
                    for (int part = 0; part < DEPTH; part++)
                        store(collected + (within + next) * TOKENS + part * LANES, found[next][part]);
                if (within + ROWS < COLLECTED && row + ROWS < rows) return;
                float* into[TOKENS];
                for (int64_t token = 0; token < TOKENS; token++) {
                    const int64_t place = (first + tile) * TOKENS + token;
                    into[token] = place < tokens ? output + place * rows : nullptr;
                }
                out_of_tile(collected, std::min(within + ROWS, rows - row + within), row - within, into);
            });
        }
    };
    if (tiles > 0) team().run(wanted, work);
}

}  // namespace
