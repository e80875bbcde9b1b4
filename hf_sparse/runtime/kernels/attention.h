// Attention of one head over one sequence: 16-bit integers in both products, floats in the softmax.
//
// Queries, keys and values get one step each, from their largest value, chosen so that no sum overflows: with 64
// features, codes have 12.5 bits and a sign. Probabilities get a step for each query.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tiles.h"

namespace {

// The tokens of a sequence in the tiles: first to first + length.
struct Span {
    int64_t first, length;
};

// Vectors of queries that are computed together: with four keys they fit the registers.
constexpr int QUERIES = LANES == 8 || GROUP == 2 ? 2 : 4;

inline float* place(float* tiles, int64_t features, int64_t feature, int64_t token) {
    return tiles + token / TOKENS * features * TOKENS + feature * TOKENS + token % TOKENS;
}

inline int64_t vectors(int64_t tokens) { return (tokens + LANES - 1) / LANES; }

// All bits set in lanes that hold a token of the sequence, none in lanes that pad it.
inline Int within(int64_t length, int64_t vector) {
    int32_t numbers[LANES];
    for (int lane = 0; lane < LANES; lane++) numbers[lane] = lane;
    return (Int)(load(numbers) < every((int32_t)(length - vector * LANES)));
}

// The step with which `width` features from `feature` on fit -bound to bound; NaN if a value is not finite.
inline float step_of(float* tiles, int64_t features, int64_t feature, int64_t width, Span span, int32_t bound) {
    Int sizes{};
    for (int64_t vector = 0; vector < vectors(span.length); vector++) {
        const Int real = within(span.length, vector);
        const float* at = place(tiles, features, feature, span.first + vector * LANES);
        for (int64_t row = 0; row < width; row++, at += TOKENS) sizes = larger(sizes, size_of(load(at)) & real);
    }
    int32_t largest = 0;
    for (int lane = 0; lane < LANES; lane++) largest = std::max(largest, sizes[lane]);
    if (largest >= INFINITE) return std::numeric_limits<float>::quiet_NaN();
    const float most = number(every(largest))[0];
    return most > 0 ? most / (float)bound : 1.0f;
}

inline Int half_of(Float value, Float inverse, Float bound) {
    return to_int(nearest(at_most(at_least(value * inverse, -bound), bound)));
}

// Words of two features each, [pair of features][token], of `count` vectors of tokens from `from` on.
inline void pair_features(float* tiles, int64_t features, int64_t feature, int64_t width, Span span,
                          int64_t from, int64_t count, float step, int32_t bound, int32_t* found,
                          int64_t stride) {
    const Float inverse = every(1.0f / step), most = every((float)bound);
    for (int64_t vector = 0; vector < count; vector++) {
        const Int real = within(span.length, from + vector);
        const float* at = place(tiles, features, feature, span.first + (from + vector) * LANES);
        int32_t* to = found + vector * LANES;
        for (int64_t row = 0; row < width; row += 2, at += 2 * TOKENS, to += stride) {
            const Int first = half_of(load(at), inverse, most);
            const Int second = row + 1 < width ? half_of(load(at + TOKENS), inverse, most) : Int{};
            store(to, halves(first, second) & real);
        }
    }
}

// 16-bit codes of all tokens, [feature][token].
inline void list_features(float* tiles, int64_t features, int64_t feature, int64_t width, Span span, float step,
                          int32_t bound, int16_t* found, int64_t stride) {
    const Float inverse = every(1.0f / step), most = every((float)bound);
    typedef int16_t Short __attribute__((vector_size(2 * LANES)));
    for (int64_t vector = 0; vector < vectors(span.length); vector++) {
        const Int real = within(span.length, vector);
        const float* at = place(tiles, features, feature, span.first + vector * LANES);
        int16_t* to = found + vector * LANES;
        for (int64_t row = 0; row < width; row++, at += TOKENS, to += stride) {
            const Short narrow = __builtin_convertvector(half_of(load(at), inverse, most) & real, Short);
            std::memcpy(to, &narrow, sizeof(narrow));
        }
    }
}

// sums[ROWS][PARTS] of products over pairs. Weights are words, with strides `across` between rows and `along`
// between pairs; words of the other side are [pair][PARTS vectors].
template <int PARTS>
inline void multiply_halves(const int32_t* weights, int64_t across, int64_t along, const int32_t* words,
                            int64_t pairs, Int sums[ROWS][PARTS]) {
    typedef int32_t Loose __attribute__((aligned(2), may_alias));
    Int kept[ROWS][PARTS] = {};
    for (int64_t pair = 0; pair < pairs; pair++, weights += along, words += PARTS * LANES) {
        Int found[PARTS];
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++) found[part] = load(words + part * LANES);
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
            const Int weight = every((int32_t)*reinterpret_cast<const Loose*>(weights + row * across));
#pragma GCC unroll 8
            for (int part = 0; part < PARTS; part++)
                kept[row][part] = dot_halves(kept[row][part], found[part], weight);
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++) sums[row][part] = kept[row][part];
}

struct Head {
    float *queries, *keys, *values;  // tiles; outputs replace the queries
    int64_t features, feature, width;
    float scaling;
};

inline int64_t stride_of(int64_t length) { return (vectors(length) * LANES + ROWS + 1) / 2 * 2; }

// Scratch words that one head needs.
inline int64_t attention_scratch(int64_t width, int64_t length) {
    const int64_t stride = stride_of(length), block = QUERIES * LANES, pairs = (width + 1) / 2;
    return pairs * stride + (width + ROWS) * stride / 2 + (pairs + stride + stride / 2) * block;
}

// The largest bound of codes for which the sum of `terms` products fits 31 bits.
inline int32_t bound_of(double terms) {
    return (int32_t)std::min(32767.0, std::floor(std::sqrt(2147483647.0 / terms)));
}

// Products of RUN keys are summed as integers, and the sums of runs as floats. The codes of probabilities in a run
// sum to SUM_OF_PROBABILITIES at most, so that small probabilities of long sequences do not become zero.
constexpr int64_t RUN = 512;
constexpr float SUM_OF_PROBABILITIES = 131072;

struct Prepared {
    const int32_t* keys;    // [pair of features][key]
    const int16_t* values;  // [feature][key]
    int64_t key_stride, value_stride;
    float query_step, key_step, value_step;
    int32_t bound, value_bound;
    int32_t* scratch;
};

template <int PARTS>
inline void attend(const Head& head, Span span, const Prepared& ready, int64_t from) {
    constexpr int64_t BLOCK = PARTS * LANES;
    const int64_t width_pairs = (head.width + 1) / 2, key_pairs = (span.length + 1) / 2;
    const int64_t rows = stripes(span.length) * ROWS;
    int32_t* queries = ready.scratch;
    float* scores = reinterpret_cast<float*>(queries + width_pairs * BLOCK);
    int32_t* shares = reinterpret_cast<int32_t*>(scores + rows * BLOCK);
    pair_features(head.queries, head.features, head.feature, head.width, span, from, PARTS, ready.query_step,
                  ready.bound, queries, BLOCK);
    const Float scale = every(ready.query_step * ready.key_step * head.scaling);
    Float largest[PARTS];
    for (int part = 0; part < PARTS; part++) largest[part] = every(-3e38f);
    for (int64_t key = 0; key < span.length; key += ROWS) {
        Int sums[ROWS][PARTS];
        multiply_halves<PARTS>(ready.keys + key, 1, ready.key_stride, queries, width_pairs, sums);
        for (int row = 0; row < ROWS; row++)
            for (int part = 0; part < PARTS; part++) {
                const Float score = to_float(sums[row][part]) * scale;
                store(scores + (key + row) * BLOCK + part * LANES, score);
                if (key + row < span.length) largest[part] = at_least(score, largest[part]);
            }
    }
    // With an odd number of keys, the second half of the last pair gets no probability.
    for (int part = 0; part < PARTS; part++)
        if (span.length % 2) store(scores + span.length * BLOCK + part * LANES, every(-3e38f));
    Float most[PARTS] = {};
    for (int64_t first = 0; first < key_pairs; first += RUN / 2) {
        Float total[PARTS] = {};
        for (int64_t pair = first; pair < std::min(first + RUN / 2, key_pairs); pair++) {
            float* at = scores + 2 * pair * BLOCK;
            Float share[2 * PARTS];
            for (int part = 0; part < 2 * PARTS; part++)
                share[part] = load(at + part * LANES) - largest[part % PARTS];
            exponential(share);
            for (int part = 0; part < 2 * PARTS; part++) {
                total[part % PARTS] += share[part];
                store(at + part * LANES, share[part]);
            }
        }
        for (int part = 0; part < PARTS; part++) most[part] = at_least(total[part], most[part]);
    }
    Float factor[PARTS];
    Int whole[PARTS] = {};
    for (int part = 0; part < PARTS; part++)
        factor[part] = at_most(every(SUM_OF_PROBABILITIES) / most[part], every(32767.0f));
    for (int64_t pair = 0; pair < key_pairs; pair++)
        for (int part = 0; part < PARTS; part++) {
            const float* at = scores + 2 * pair * BLOCK + part * LANES;
            const Int first = to_int(nearest(load(at) * factor[part]));
            const Int second = to_int(nearest(load(at + BLOCK) * factor[part]));
            whole[part] += first + second;
            store(shares + pair * BLOCK + part * LANES, halves(first, second));
        }
    Float back[PARTS];
    for (int part = 0; part < PARTS; part++) back[part] = every(ready.value_step) / to_float(whole[part]);
    for (int64_t row = 0; row < head.width; row += ROWS) {
        Float found[ROWS][PARTS] = {};
        const int32_t* values = reinterpret_cast<const int32_t*>(ready.values + row * ready.value_stride);
        for (int64_t first = 0; first < key_pairs; first += RUN / 2) {
            Int sums[ROWS][PARTS];
            multiply_halves<PARTS>(values + first, ready.value_stride / 2, 1, shares + first * BLOCK,
                                   std::min(RUN / 2, key_pairs - first), sums);
            for (int next = 0; next < ROWS; next++)
                for (int part = 0; part < PARTS; part++) found[next][part] += to_float(sums[next][part]);
        }
        for (int64_t next = row; next < row + ROWS && next < head.width; next++)
            for (int part = 0; part < PARTS; part++)
                store(place(head.queries, head.features, head.feature + next,
                            span.first + (from + part) * LANES),
                      found[next - row][part] * back[part]);
    }
}

inline void attend(const Head& head, Span span, int32_t* scratch) {
    if (span.length == 0) return;
    const int64_t even = stride_of(span.length), width_pairs = (head.width + 1) / 2;
    Prepared ready;
    ready.bound = bound_of((double)head.width);
    // Rounding may add one half per key.
    ready.value_bound = (int32_t)std::min(
        32767.0, 2147483647.0 / ((double)SUM_OF_PROBABILITIES + (double)RUN));
    const auto step = [&](float* tiles, int32_t bound) {
        return step_of(tiles, head.features, head.feature, head.width, span, bound);
    };
    ready.query_step = step(head.queries, ready.bound);
    ready.key_step = step(head.keys, ready.bound);
    ready.value_step = step(head.values, ready.value_bound);
    if (std::isnan(ready.query_step) || std::isnan(ready.key_step) || std::isnan(ready.value_step)) {
        // Every query weighs every key, and even a weight of 0 times NaN or infinity is NaN.
        for (int64_t vector = 0; vector < vectors(span.length); vector++)
            for (int64_t row = 0; row < head.width; row++)
                store(place(head.queries, head.features, head.feature + row, span.first + vector * LANES),
                      every(std::numeric_limits<float>::quiet_NaN()));
        return;
    }
    ready.key_stride = ready.value_stride = even;
    int32_t* keys = scratch;
    int16_t* values = reinterpret_cast<int16_t*>(keys + width_pairs * even);
    ready.keys = keys;
    ready.values = values;
    ready.scratch = keys + width_pairs * even + (head.width + ROWS) * even / 2;
    std::memset(keys, 0, (size_t)(ready.scratch - keys) * sizeof(int32_t));
    pair_features(head.keys, head.features, head.feature, head.width, span, 0, vectors(span.length),
                  ready.key_step, ready.bound, keys, even);
    list_features(head.values, head.features, head.feature, head.width, span, ready.value_step,
                  ready.value_bound, values, even);
    int64_t vector = 0;
    // Blocks of queries may begin in one tile and end in the next.
    for (; vector + QUERIES <= vectors(span.length); vector += QUERIES) attend<QUERIES>(head, span, ready, vector);
    for (; vector < vectors(span.length); vector++) attend<1>(head, span, ready, vector);
}

}  // namespace
