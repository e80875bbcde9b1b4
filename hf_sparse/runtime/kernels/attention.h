// Attention of one head over one sequence: 16-bit integers in both products, floats in the softmax.
//
// Queries, keys and values get one step each, from their largest value, chosen so that no sum overflows: with 64
// features, codes have 12.5 bits and a sign. Probabilities get a step for each query.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "places.h"

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

// The largest absolute value of a head in a sequence, as an integer, from those of each token, [vector][head].
inline int32_t largest_of(const int32_t* sizes, int64_t heads, int64_t head, Span span) {
    Int found{};
    for (int64_t vector = 0; vector < vectors(span.length); vector++)
        found = larger(found, load(sizes + ((span.first / LANES + vector) * heads + head) * LANES) &
                                  within(span.length, vector));
    int32_t largest = 0;
    for (int lane = 0; lane < LANES; lane++) largest = std::max(largest, found[lane]);
    return largest;
}

// The step with which values up to a largest one fit -bound to bound; NaN if a value is not finite.
inline float step_of(int32_t largest, int32_t bound) {
    if (largest >= INFINITE) return std::numeric_limits<float>::quiet_NaN();
    const float most = number(every(largest))[0];
    // Of smaller numbers the inverse of the step could be infinite.
    return most > 1e-30f ? most / (float)bound : 1.0f;
}

// A number whose low 16 bits are the code of a value.
inline Int half_of(Float value, Float inverse) { return bits(fused(value, inverse, every(MAGIC))); }

// Words of two features each, [pair of features][token], of `count` vectors of tokens from `from` on.
inline void pair_features(float* tiles, int64_t features, int64_t feature, int64_t width, Span span,
                          int64_t from, int64_t count, float step, int32_t* found, int64_t stride) {
    const Float inverse = every(1.0f / step);
    for (int64_t vector = 0; vector < count; vector++) {
        const Int real = within(span.length, from + vector);
        const float* at = place(tiles, features, feature, span.first + (from + vector) * LANES);
        int32_t* to = found + vector * LANES;
        for (int64_t row = 0; row < width; row += 2, at += 2 * TOKENS, to += stride) {
            const Int first = half_of(load(at), inverse);
            const Int second = row + 1 < width ? half_of(load(at + TOKENS), inverse) : Int{};
            store(to, halves(first, second) & real);
        }
    }
}

// 16-bit codes of all tokens, [feature][token].
inline void list_features(float* tiles, int64_t features, int64_t feature, int64_t width, Span span, float step,
                          int16_t* found, int64_t stride) {
    const Float inverse = every(1.0f / step);
    typedef int16_t Short __attribute__((vector_size(2 * LANES)));
    for (int64_t vector = 0; vector < vectors(span.length); vector++) {
        const Int real = within(span.length, vector);
        const float* at = place(tiles, features, feature, span.first + vector * LANES);
        int16_t* to = found + vector * LANES;
        for (int64_t row = 0; row < width; row++, at += TOKENS, to += stride) {
            const Short narrow = __builtin_convertvector(half_of(load(at), inverse) & real, Short);
            std::memcpy(to, &narrow, sizeof(narrow));
        }
    }
}

// sums[ROWS][PARTS] of products over pairs. Weights are words, with strides `across` between rows and `along`
// between pairs; words of the other side are [pair][PARTS vectors]. Not inlined: inside of a long function compilers do
// not keep the sums in registers.
template <int PARTS>
__attribute__((noinline)) void multiply_halves(const int32_t* weights, int64_t across, int64_t along, const int32_t* words,
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
    int64_t key_feature;  // of keys and values, which several heads may share
    Distances distances;
    int32_t largest_query, largest_key, largest_value;  // of the sequence, as integers
};

inline int64_t stride_of(int64_t length) { return (vectors(length) * LANES + ROWS + 1) / 2 * 2; }

// Scratch words that one head needs; `rows` is the number of rows of distances.
inline int64_t attention_scratch(int64_t width, int64_t length, int64_t rows) {
    const int64_t stride = stride_of(length), block = QUERIES * LANES, pairs = (width + 1) / 2;
    return pairs * stride + (width + ROWS) * stride / 2 + (pairs + stride) * block + rows * (block + stride);
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
    int32_t* scratch;
    float *query_rows, *key_rows;  // scores by row of distances, as in ByRow
};

// A step of scores in powers of two, so small that sums of products stay finite.
inline float step_of_scores(const Head& head, float one, float other) {
    return std::min(one * other * head.scaling * 1.44269504f, 1e28f);
}

// The first and the last row of distances of queries from keys.
inline Span rows_between(const Head& head, int32_t query, int32_t last_query, int32_t key, int32_t last_key) {
    const int32_t* rows = head.distances.rows_of;
    return {rows[query - last_key], rows[last_query - key]};
}

// Scores of all keys by row of distances.
inline void keys_by_row(const Head& head, Span span, const Prepared& ready) {
    const int64_t pairs = (head.width + 1) / 2;
    const int32_t *columns = head.distances.columns + span.first, *words = head.distances.relations.queries;
    const Float step = every(step_of_scores(head, ready.key_step, *head.distances.relations.query_steps));
    const int32_t first = columns[0], last = columns[span.length - 1];
    const Span rows = rows_between(head, first, last, first, last);
    for (int64_t row = rows.first / LANES * LANES; row <= rows.length; row += LANES)
        for (int64_t key = 0; key < span.length; key += ROWS) {
            Int sums[ROWS][1];
            multiply_halves<1>(ready.keys + key, 1, ready.key_stride, words + row * pairs, pairs, sums);
            for (int next = 0; next < ROWS; next++)
                store(ready.key_rows + (key + next) * head.distances.rows + row, to_float(sums[next][0]) * step);
        }
}

// Scores of a block of queries, given as words, by row of distances.
template <int PARTS>
inline void queries_by_row(const Head& head, Span rows, const Prepared& ready, const int32_t* queries) {
    const Relations& relations = head.distances.relations;
    const Float step = every(step_of_scores(head, ready.query_step, *relations.key_steps));
    for (int64_t row = rows.first / ROWS * ROWS; row <= rows.length; row += ROWS) {
        Int sums[ROWS][PARTS];
        multiply_halves<PARTS>(relations.keys + row, 1, head.distances.rows, queries, (head.width + 1) / 2, sums);
        for (int next = 0; next < ROWS; next++)
            for (int part = 0; part < PARTS; part++)
                store(ready.query_rows + ((row + next) * PARTS + part) * LANES, to_float(sums[next][part]) * step);
    }
}

// The keys that a block of queries sees: from a whole stripe on, up to a whole stripe or the end.
inline Span seen(const Head& head, Span span, int64_t from, int64_t queries) {
    const int64_t window = head.distances.window;
    if (window < 0) return {0, span.length};
    const int32_t* columns = head.distances.columns + span.first;
    const int64_t last = std::min(from + queries, span.length) - 1;
    const int32_t* first = std::lower_bound(columns, columns + span.length, columns[from] - window);
    const int32_t* end = std::upper_bound(columns, columns + span.length, columns[last] + window);
    const int64_t low = (first - columns) / ROWS * ROWS;
    return {low, std::min(stripes(end - columns) * ROWS, span.length) - low};
}

// With PLACED, scores depend on places, and are floats, in powers of two, as soon as they are known.
template <int PARTS, bool PLACED>
inline void attend(const Head& head, Span span, const Prepared& ready, int64_t from) {
    constexpr int64_t BLOCK = PARTS * LANES;
    const int64_t width_pairs = (head.width + 1) / 2;
    const Span keys = PLACED ? seen(head, span, from * LANES, BLOCK) : Span{0, span.length};
    const int64_t keys_end = keys.first + keys.length, key_pairs = (keys_end + 1) / 2;
    // Runs begin at multiples of RUN, whatever is seen.
    const int64_t first_pair = keys.first / 2, first_run = first_pair / (RUN / 2) * (RUN / 2);
    int32_t* queries = ready.scratch;
    // Scores as sums of integers, then probabilities as floats, then as words, each in the place of the former.
    int32_t* scores = queries + width_pairs * BLOCK;
    float* shares = reinterpret_cast<float*>(scores);
    pair_features(head.queries, head.features, head.feature, head.width, span, from, PARTS, ready.query_step, queries,
                  BLOCK);
    // The exponent of a probability, in powers of two, is the distance to the largest score times `scale`.
    const float scale = PLACED ? step_of_scores(head, ready.query_step, ready.key_step)
                               : std::min(ready.query_step * ready.key_step * head.scaling * 1.44269504f, 3e38f);
    Int largest[PARTS], columns[PARTS];
    Float top[PARTS];
    for (int part = 0; part < PARTS; part++) {
        largest[part] = every(INT32_MIN), top[part] = every(UNSEEN);
        if constexpr (PLACED) columns[part] = load(head.distances.columns + span.first + (from + part) * LANES);
    }
    const int32_t* key_columns = PLACED ? head.distances.columns + span.first : nullptr;
    const bool contiguous = PLACED && key_columns[span.length - 1] - key_columns[0] == span.length - 1;
    ByRow by_row = {nullptr, nullptr};
    if (PLACED && head.distances.relations.any()) {
        const int64_t last = std::min((from + PARTS) * LANES, span.length) - 1;
        queries_by_row<PARTS>(head,
                              rows_between(head, key_columns[from * LANES], key_columns[last],
                                           key_columns[keys.first], key_columns[keys_end - 1]),
                              ready, queries);
        by_row.queries = ready.query_rows;
    }
    for (int64_t key = keys.first; key < keys_end; key += ROWS) {
        Int sums[ROWS][PARTS];
        multiply_halves<PARTS>(ready.keys + key, 1, ready.key_stride, queries, width_pairs, sums);
        for (int row = 0; row < ROWS; row++) {
            const bool real = key + row < span.length;
            for (int part = 0; part < PARTS; part++) {
                const int64_t at = (key + row) * BLOCK + part * LANES;
                if constexpr (PLACED) {
                    if (!real) continue;
                    if (by_row.queries != nullptr) {
                        by_row.queries = ready.query_rows + part * LANES;
                        by_row.keys = ready.key_rows + (key + row) * head.distances.rows;
                    }
                    const Float found = score<BLOCK>(sums[row][part], every(scale), head.distances, by_row,
                                                     columns[part], key_columns[key + row], contiguous);
                    store(shares + at, found);
                    top[part] = at_least(found, top[part]);
                } else {
                    store(scores + at, sums[row][part]);
                    if (real) largest[part] = larger(largest[part], sums[row][part]);
                }
            }
        }
    }
    const Float factor_of_scores = every(PLACED ? 1.0f : scale), lowest = every(-120.0f) / factor_of_scores;
    Float most[PARTS] = {};
    for (int part = 0; part < PARTS; part++)
        if constexpr (!PLACED) top[part] = to_float(largest[part]);
    for (int64_t first = first_run; first < key_pairs; first += RUN / 2) {
        Float total[PARTS] = {};
        for (int64_t pair = std::max(first, first_pair); pair < std::min(first + RUN / 2, key_pairs); pair++) {
            const int64_t at = 2 * pair * BLOCK;
            Float share[2 * PARTS];
            Int hidden[2 * PARTS];
#pragma GCC unroll 8
            for (int part = 0; part < 2 * PARTS; part++) {
                Float found;
                if constexpr (PLACED) {
                    found = load(shares + at + part * LANES);
                    hidden[part] = (Int)(found < every(LOWEST_SCORE));
                } else {
                    found = to_float(load(scores + at + part * LANES));
                }
                share[part] = at_least(found - top[part % PARTS], lowest);
            }
            power_of_two(share, factor_of_scores);
            if constexpr (PLACED)
                for (int part = 0; part < 2 * PARTS; part++) share[part] = number(bits(share[part]) & ~hidden[part]);
            if (2 * pair + 1 == span.length)
                for (int part = PARTS; part < 2 * PARTS; part++) share[part] = every(0.0f);
#pragma GCC unroll 8
            for (int part = 0; part < 2 * PARTS; part++) {
                total[part % PARTS] += share[part];
                store(shares + at + part * LANES, share[part]);
            }
        }
        for (int part = 0; part < PARTS; part++) most[part] = at_least(total[part], most[part]);
    }
    Float factor[PARTS];
    Int whole[PARTS] = {};
    for (int part = 0; part < PARTS; part++)
        factor[part] = at_most(every(SUM_OF_PROBABILITIES) / most[part], every(32767.0f));
    for (int64_t pair = first_pair; pair < key_pairs; pair++)
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++) {
            const float* at = shares + 2 * pair * BLOCK + part * LANES;
            const Int both = halves(half_of(load(at), factor[part]), half_of(load(at + BLOCK), factor[part]));
            whole[part] = dot_halves(whole[part], both, every(0x10001));
            store(scores + pair * BLOCK + part * LANES, both);
        }
    Float back[PARTS];
    for (int part = 0; part < PARTS; part++) back[part] = every(ready.value_step) / to_float(whole[part]);
    for (int64_t row = 0; row < head.width; row += ROWS) {
        Float found[ROWS][PARTS] = {};
        const int32_t* values = reinterpret_cast<const int32_t*>(ready.values + row * ready.value_stride);
        for (int64_t first = first_run; first < key_pairs; first += RUN / 2) {
            Int sums[ROWS][PARTS];
            const int64_t pair = std::max(first, first_pair), end = std::min(first + RUN / 2, key_pairs);
            multiply_halves<PARTS>(values + pair, ready.value_stride / 2, 1, scores + pair * BLOCK, end - pair, sums);
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

template <bool PLACED>
inline void attend_blocks(const Head& head, Span span, const Prepared& ready) {
    int64_t vector = 0;
    // Blocks of queries may begin in one tile and end in the next.
    for (; vector + QUERIES <= vectors(span.length); vector += QUERIES)
        attend<QUERIES, PLACED>(head, span, ready, vector);
    for (; vector < vectors(span.length); vector++) attend<1, PLACED>(head, span, ready, vector);
}

inline void attend(const Head& head, Span span, int32_t* scratch) {
    if (span.length == 0) return;
    const int64_t even = stride_of(span.length), width_pairs = (head.width + 1) / 2;
    Prepared ready;
    const int32_t bound = bound_of((double)head.width);
    // Rounding may add one half per key.
    const int32_t value_bound =
        (int32_t)std::min(32767.0, 2147483647.0 / ((double)SUM_OF_PROBABILITIES + (double)RUN));
    ready.query_step = step_of(head.largest_query, bound);
    ready.key_step = step_of(head.largest_key, bound);
    ready.value_step = step_of(head.largest_value, value_bound);
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
    pair_features(head.keys, head.features, head.key_feature, head.width, span, 0, vectors(span.length),
                  ready.key_step, keys, even);
    list_features(head.values, head.features, head.key_feature, head.width, span, ready.value_step, values, even);
    ready.key_rows = reinterpret_cast<float*>(ready.scratch + (width_pairs + even) * QUERIES * LANES);
    ready.query_rows = ready.key_rows + even * head.distances.rows;
    if (head.distances.relations.any()) keys_by_row(head, span, ready);
    if (head.distances.any())
        attend_blocks<true>(head, span, ready);
    else
        attend_blocks<false>(head, span, ready);
}

}  // namespace
