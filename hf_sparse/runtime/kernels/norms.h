// Norms of the tokens of a tile.

#pragma once

#include <cmath>

#include "tiles.h"

namespace {

// Mean and 1 / deviation of each token of a tile.
struct Moments {
    Float mean[DEPTH], inverse[DEPTH];
};

inline void sum_features(const float* values, int64_t features, Float sums[DEPTH]) {
    for (int64_t feature = 0; feature < features; feature++)
        for (int part = 0; part < DEPTH; part++) sums[part] += load(values + feature * TOKENS + part * LANES);
}

// `sums` are those of each token's values, added in the order of the features.
inline Moments moments(const float* values, int64_t features, double epsilon, bool centered,
                       const Float sums[DEPTH]) {
    const Float count = every((float)features), little = every((float)epsilon);
    Moments found = {};
    for (int part = 0; centered && part < DEPTH; part++) found.mean[part] = sums[part] / count;
    for (int64_t feature = 0; feature < features; feature++)
        for (int part = 0; part < DEPTH; part++) {
            const Float apart = load(values + feature * TOKENS + part * LANES) - found.mean[part];
            found.inverse[part] = fused(apart, apart, found.inverse[part]);
        }
    for (int part = 0; part < DEPTH; part++) {
        const Float variance = found.inverse[part] / count + little;
        float deviation[LANES];
        for (int lane = 0; lane < LANES; lane++) deviation[lane] = std::sqrt(variance[lane]);
        found.inverse[part] = every(1.0f) / load(deviation);
    }
    return found;
}

// LayerNorm of each token of a tile, or RMSNorm, which subtracts no mean; calls give(first, normalized) for the
// ROWS features from `first` on, with zeros for those beyond the last.
template <typename Give>
inline void normalize(const float* values, int64_t features, const Float sums[DEPTH], const float* weight,
                      const float* bias, double epsilon, bool centered, const Give& give) {
    const Moments found = moments(values, features, epsilon, centered, sums);
    for (int64_t first = 0; first < features; first += ROWS) {
        Float normalized[ROWS][DEPTH];
        for (int row = 0; row < ROWS; row++)
            for (int part = 0; part < DEPTH; part++) {
                normalized[row][part] = every(0.0f);
                const int64_t feature = first + row;
                if (feature >= features) continue;
                const Float apart = load(values + feature * TOKENS + part * LANES) - found.mean[part];
                normalized[row][part] =
                    fused(apart * found.inverse[part], every(weight[feature]), every(bias[feature]));
            }
        give(first, normalized);
    }
}

}  // namespace
