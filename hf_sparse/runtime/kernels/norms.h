// Norms of the tokens of a tile.

#pragma once

#include <cmath>

#include "tiles.h"

namespace {

// LayerNorm of each token of a tile of floats, or RMSNorm, which subtracts no mean. `values` may be `from`.
inline void normalize(const float* from, float* values, int64_t features, const float* weight, const float* bias,
                      double epsilon, bool centered) {
    const Float count = every((float)features), little = every((float)epsilon);
    Float mean[DEPTH] = {}, inverse[DEPTH] = {};
    for (int64_t feature = 0; centered && feature < features; feature++)
        for (int part = 0; part < DEPTH; part++) mean[part] += load(from + feature * TOKENS + part * LANES);
    for (int part = 0; part < DEPTH; part++) mean[part] = mean[part] / count;
    for (int64_t feature = 0; feature < features; feature++)
        for (int part = 0; part < DEPTH; part++) {
            const Float apart = load(from + feature * TOKENS + part * LANES) - mean[part];
            inverse[part] = fused(apart, apart, inverse[part]);
        }
    for (int part = 0; part < DEPTH; part++) {
        const Float variance = inverse[part] / count + little;
        float deviation[LANES];
        for (int lane = 0; lane < LANES; lane++) deviation[lane] = std::sqrt(variance[lane]);
        inverse[part] = every(1.0f) / load(deviation);
    }
    for (int64_t feature = 0; feature < features; feature++)
        for (int part = 0; part < DEPTH; part++) {
            const int64_t place = feature * TOKENS + part * LANES;
            const Float scaled = (load(from + place) - mean[part]) * inverse[part];
            store(values + place, fused(scaled, every(weight[feature]), every(bias[feature])));
        }
}

}  // namespace
