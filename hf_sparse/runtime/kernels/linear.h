// One layer by itself: floats in, floats out, tokens one after the other.

#pragma once

#include "encoder.h"

namespace {

struct ForLinear;

// Copies tokens from `first` of (tokens, features) into a tile of floats; what is beyond them is zero.
inline void gather(const float* input, int64_t tokens, int64_t features, int64_t first, float* tile) {
    for (int64_t token = 0; token < TOKENS; token++) {
        const float* from = input + (first + token) * features;
        const bool real = first + token < tokens;
        for (int64_t feature = 0; feature < features; feature++)
            tile[feature * TOKENS + token] = real ? from[feature] : 0.0f;
    }
}

inline void apply(const Matrix& matrix, const Grid& grid, const float* input, int64_t tokens, float* output,
                  int threads) {
    const int64_t tiles = (tokens + TOKENS - 1) / TOKENS, rows = matrix.rows;
    const auto work = [&](int member, int members, Barrier&) {
        const int64_t words = tile_words(padded(matrix.columns)), chunk = std::min(CHUNK, tiles);
        int32_t* memory = scratch<ForLinear>(chunk * (words + matrix.columns * TOKENS));
        float* floats = reinterpret_cast<float*>(memory + chunk * words);
        Codes codes{memory, {}};
        const int64_t to = tiles * (member + 1) / members;
        for (int64_t first = tiles * member / members; first < to; first += chunk) {
            const int64_t count = std::min(chunk, to - first);
            for (int64_t tile = 0; tile < count; tile++)
                gather(input, tokens, matrix.columns, (first + tile) * TOKENS, floats + tile * matrix.columns * TOKENS);
            codes.source = nullptr;
            codes.make(grid, matrix.by_columns, floats, matrix.columns, count);
            product(matrix, codes, count, [&](int64_t stripe, int64_t tile, const Float found[ROWS][DEPTH]) {
                const int64_t begin = (first + tile) * TOKENS, height = std::min<int64_t>(ROWS, rows - stripe * ROWS);
                const int64_t count = std::min<int64_t>(TOKENS, tokens - begin);
                float* to = output + begin * rows + stripe * ROWS;
                for (int64_t token = 0; token < count; token++, to += rows)
                    for (int64_t row = 0; row < height; row++)
                        to[row] = found[row][token / LANES][token % LANES];
            });
        }
    };
    team().run((int)std::min<int64_t>(threads, tiles), work);
}

}  // namespace
