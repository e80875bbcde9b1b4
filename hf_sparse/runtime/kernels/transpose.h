// Copies rows of features, one for each token, to and from tiles, [feature][token].

#pragma once

#include <utility>

#include "product.h"

namespace {

// Picks lanes of two vectors; those of the second are numbered from LANES on.
template <int... LANE>
inline Float shuffle(Float first, Float second) {
#if defined(__clang__)
    return __builtin_shufflevector(first, second, LANE...);
#else
    // GCC has __builtin_shufflevector since version 12 only.
    return __builtin_shuffle(first, second, Int{LANE...});
#endif
}

// Swaps the two STEP x STEP blocks beside the diagonal of each 2 STEP x 2 STEP block.
template <int STEP, int... LANE>
inline void exchange(Float (&rows)[LANES], std::integer_sequence<int, LANE...>) {
#pragma GCC unroll 16
    for (int row = 0; row < LANES; row++) {
        if (row & STEP) continue;
        const Float above = rows[row], below = rows[row + STEP];
        rows[row] = shuffle<(LANE & STEP ? LANES + LANE - STEP : LANE)...>(above, below);
        rows[row + STEP] = shuffle<(LANE & STEP ? LANES + LANE : LANE + STEP)...>(above, below);
    }
}

inline void transpose(Float (&rows)[LANES]) {
    constexpr auto lanes = std::make_integer_sequence<int, LANES>();
    if constexpr (LANES > 8) exchange<8>(rows, lanes);
    if constexpr (LANES > 4) exchange<4>(rows, lanes);
    exchange<2>(rows, lanes);
    exchange<1>(rows, lanes);
}

// Fills a tile with features of rows, from their feature `first` on, with zeros for null rows.
inline void into_tile(const float* const rows[TOKENS], int64_t first, int64_t features, float* tile) {
    const int64_t whole = features / LANES * LANES;
    for (int64_t token = 0; token < TOKENS; token += LANES)
        for (int64_t feature = 0; feature < whole; feature += LANES) {
            Float block[LANES];
            for (int lane = 0; lane < LANES; lane++) {
                const float* row = rows[token + lane];
                block[lane] = row == nullptr ? Float{} : load(row + first + feature);
            }
            transpose(block);
            for (int lane = 0; lane < LANES; lane++) store(tile + (feature + lane) * TOKENS + token, block[lane]);
        }
    for (int64_t feature = whole; feature < features; feature++)
        for (int64_t token = 0; token < TOKENS; token++)
            tile[feature * TOKENS + token] = rows[token] == nullptr ? 0.0f : rows[token][first + feature];
}

// Copies features of a tile into rows, from their feature `first` on; null rows are skipped.
inline void out_of_tile(const float* tile, int64_t features, int64_t first, float* const rows[TOKENS]) {
    const int64_t whole = features / LANES * LANES;
    for (int64_t token = 0; token < TOKENS; token += LANES)
        for (int64_t feature = 0; feature < whole; feature += LANES) {
            Float block[LANES];
            for (int lane = 0; lane < LANES; lane++) block[lane] = load(tile + (feature + lane) * TOKENS + token);
            transpose(block);
            for (int lane = 0; lane < LANES; lane++)
                if (rows[token + lane] != nullptr) store(rows[token + lane] + first + feature, block[lane]);
        }
    for (int64_t feature = whole; feature < features; feature++)
        for (int64_t token = 0; token < TOKENS; token++)
            if (rows[token] != nullptr) rows[token][first + feature] = tile[feature * TOKENS + token];
}

}  // namespace
