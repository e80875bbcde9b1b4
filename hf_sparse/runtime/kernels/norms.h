// Norms of the tokens of a tile.

#pragma once

#include <cmath>

#include "tiles.h"

namespace {

// LayerNorm of each token of a tile of floats, in place.
inline void normalize(float* values, int64_t features, const float* weight, const float* bias, double epsilon) {
    const Float count = every((float)features), little = every((float)epsilon);
    Float mean[DEPTH] = {}, inverse[DEPTH] = {};
    for (int64_t feature = 0; feature < features; feature++)
        for (int part = 0; part < DEPTH; part++) mean[part] += load(values + feature * TOKENS + part * LANES);
    for (int part = 0; part < DEPTH; part++) mean[part] = mean[part] / count;
    for (int64_t feature = 0; feature < features; feature++)
        for (int part = 0; part < DEPTH; part++) {
            const Float apart = load(values + feature * TOKENS + part * LANES) - mean[part];
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
            float* to = values + feature * TOKENS + part * LANES;
            const Float scaled = (load(to) - mean[part]) * inverse[part];
            store(to, fused(scaled, every(weight[feature]), every(bias[feature])));
        }
}

}  // namespace
