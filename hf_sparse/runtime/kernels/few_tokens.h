// One layer for a few tokens, as in generation: each row of a weight times the codes of a token.
//
// With so few tokens the time goes into reading the weight, so it holds the codes that are not zero, as bytes, and a
// bit for each column that says whether its code is there. Here the lanes of a vector are columns, and then rows.
// Integers are summed exactly and floats never across lanes, so the outputs are those of a whole tile, bit for bit.

#pragma once

#include <algorithm>

#include "threads.h"
#include "tiles.h"

namespace {

struct ForFewTokens;

struct Rows {
    int64_t rows, columns;
    const uint64_t* kept;      // rows * blocks(columns): the columns that have a code; null if all have
    const int8_t* codes;       // row by row, at least a block of unused ones after the last
    const int64_t* starts;     // rows: where the codes of each begin
    const float* multipliers;  // as in Matrix, these three padded to whole vectors
    const float* biases;
    const int32_t* row_sums;
};

// Columns that a word of `kept` describes.
constexpr int64_t BLOCK = 64;
// More tokens are computed as a tile.
constexpr int64_t FEW = 4;
// Rows whose sums are turned into floats at a time.
constexpr int64_t TOGETHER = 16;
// A weight of fewer bytes is not worth a second thread.
constexpr int64_t SHARED_BYTES = 1 << 17;

inline int64_t blocks(int64_t columns) { return (columns + BLOCK - 1) / BLOCK; }

// The codes of one token, 0 to 255, with the step and the zero that restore them.
struct Token {
    float step;
    int32_t zero;
    bool broken;
};

inline Token round_token(const Grid& grid, const float* values, int64_t columns, uint8_t* codes) {
    typedef uint8_t Bytes __attribute__((vector_size(LANES)));
    const auto part = [&](int64_t column) {
        if (column + LANES <= columns) return load(values + column);
        float some[LANES] = {};
        std::copy(values + column, values + columns, some);
        return load(some);
    };
    Scales scales = fixed_scales(grid);
    if (grid.dynamic) {
        Float low{}, high{};
        for (int64_t column = 0; column < columns; column += LANES) {
            low = at_most(part(column), low);
            high = at_least(part(column), high);
        }
        Range range;
        for (int lane = 0; lane < LANES; lane++) {
            range.low[0][0] = std::min(range.low[0][0], low[lane]);
            range.high[0][0] = std::max(range.high[0][0], high[lane]);
        }
        scales = range.scales(grid);
    }
    const Token token{scales.step[0][0], scales.zero[0][0], false};
    const Float inverse = every(1.0f) / every(token.step), zero = to_float(every(token.zero));
    Int largest{};
    for (int64_t column = 0; column < columns; column += LANES) {
        const Float value = part(column);
        largest = larger(largest, size_of(value));
        const Bytes narrow = __builtin_convertvector(larger(code_of(value, inverse, zero), Int{}), Bytes);
        std::memcpy(codes + column, &narrow, (size_t)std::min<int64_t>(LANES, columns - column));
    }
    std::fill(codes + columns, codes + blocks(columns) * BLOCK, (uint8_t)0);
    int32_t most = 0;
    for (int lane = 0; lane < LANES; lane++) most = std::max(most, largest[lane]);
    return {token.step, token.zero, most > (grid.dynamic ? INFINITE - 1 : INFINITE)};
}

// sums[COUNT][TOGETHER] of the rows from `first` to `last`, for COUNT tokens of `stride` codes each.
template <int COUNT>
inline void sum_rows(const Rows& weight, int64_t first, int64_t last, const uint8_t* codes, int64_t stride,
                     int32_t sums[COUNT][TOGETHER]) {
    for (int64_t row = first; row < last; row++) {
        const int8_t* at = weight.codes + weight.starts[row];
        int32_t found[COUNT] = {};
        if (weight.kept == nullptr) {
            for (int token = 0; token < COUNT; token++)
                for (int64_t column = 0; column < weight.columns; column++)
                    found[token] += (int32_t)codes[token * stride + column] * at[column];
        } else {
            const uint64_t* kept = weight.kept + row * blocks(weight.columns);
            for (const uint8_t* some = codes; some < codes + stride; some += BLOCK)
                for (uint64_t left = *kept++; left; left &= left - 1) {
                    const uint8_t* column = some + __builtin_ctzll(left);
                    const int32_t code = *at++;
                    for (int token = 0; token < COUNT; token++) found[token] += column[token * stride] * code;
                }
        }
        for (int token = 0; token < COUNT; token++) sums[token][row - first] = found[token];
    }
}

#if defined(HF_SPARSE_AVX512_VNNI) && !defined(HF_SPARSE_EMULATED)

// The first processors with VNNI cannot spread bytes to the places of a mask.
inline bool spreads_bytes() { return __builtin_cpu_supports("avx512vbmi2"); }

#define SPREADING __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi2")))

// The sums of the lanes of 16 vectors, in their order.
SPREADING inline __m512i sums_of_lanes(const __m512i (&each)[16]) {
    __m512i four[4];
    for (int some = 0; some < 4; some++) {
        const __m512i *at = each + 4 * some;
        const __m512i first = _mm512_add_epi32(_mm512_unpacklo_epi32(at[0], at[1]), _mm512_unpackhi_epi32(at[0], at[1]));
        const __m512i second = _mm512_add_epi32(_mm512_unpacklo_epi32(at[2], at[3]), _mm512_unpackhi_epi32(at[2], at[3]));
        four[some] = _mm512_add_epi32(_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));
    }
    const __m512i low = _mm512_add_epi32(_mm512_shuffle_i32x4(four[0], four[1], 0x88), _mm512_shuffle_i32x4(four[0], four[1], 0xdd));
    const __m512i high = _mm512_add_epi32(_mm512_shuffle_i32x4(four[2], four[3], 0x88), _mm512_shuffle_i32x4(four[2], four[3], 0xdd));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(low, high, 0x88), _mm512_shuffle_i32x4(low, high, 0xdd));
}

template <int COUNT>
SPREADING void sum_rows_spread(const Rows& weight, int64_t first, int64_t last, const uint8_t* codes,
                                       int64_t stride, int32_t sums[COUNT][TOGETHER]) {
    const int64_t count = blocks(weight.columns);
    __m512i found[COUNT][TOGETHER];
    for (int token = 0; token < COUNT; token++)
        for (__m512i& sum : found[token]) sum = _mm512_setzero_si512();
    for (int64_t row = first; row < last; row++) {
        const int8_t* at = weight.codes + weight.starts[row];
        const uint64_t* kept = weight.kept == nullptr ? nullptr : weight.kept + row * count;
        __m512i sum[COUNT];
        for (int token = 0; token < COUNT; token++) sum[token] = _mm512_setzero_si512();
        for (int64_t block = 0; block < count; block++) {
            __m512i some = _mm512_loadu_si512((const void*)at);
            if (kept == nullptr) {
                at += BLOCK;
            } else {
                some = _mm512_maskz_expand_epi8(kept[block], some);
                at += __builtin_popcountll(kept[block]);
            }
            for (int token = 0; token < COUNT; token++)
                sum[token] = _mm512_dpbusd_epi32(
                    sum[token], _mm512_loadu_si512((const void*)(codes + token * stride + block * BLOCK)), some);
        }
        for (int token = 0; token < COUNT; token++) found[token][row - first] = sum[token];
    }
    for (int token = 0; token < COUNT; token++) _mm512_store_si512(sums[token], sums_of_lanes(found[token]));
}

#else

inline bool spreads_bytes() { return false; }

template <int COUNT>
inline void sum_rows_spread(const Rows&, int64_t, int64_t, const uint8_t*, int64_t, int32_t[COUNT][TOGETHER]) {}

#endif

template <int COUNT>
inline void multiply_rows(const Rows& weight, const Grid& grid, const Token* tokens, const uint8_t* codes,
                          int64_t from, int64_t to, float* output) {
    const int64_t stride = blocks(weight.columns) * BLOCK;
    const bool spreads = spreads_bytes();
    for (int64_t first = from; first < to; first += TOGETHER) {
        const int64_t last = std::min(first + TOGETHER, to);
        alignas(64) int32_t sums[COUNT][TOGETHER] = {};
        if (spreads)
            sum_rows_spread<COUNT>(weight, first, last, codes, stride, sums);
        else
            sum_rows<COUNT>(weight, first, last, codes, stride, sums);
        for (int each = 0; each < COUNT; each++) {
            const Token& token = tokens[each];
            alignas(64) float found[TOGETHER];
            for (int64_t row = 0; row < TOGETHER; row += LANES) {
                const Int sum = load(sums[each] + row) - every(token.zero) * load(weight.row_sums + first + row);
                const Float multiplier = load(weight.multipliers + first + row);
                const Float bias = load(weight.biases + first + row);
                const Float value = grid.dynamic ? fused(to_float(sum) * multiplier, every(token.step), bias)
                                                 : fused(to_float(sum), multiplier, bias);
                store(found + row, token.broken ? number(every(-1)) : value);
            }
            std::copy(found, found + (last - first), output + each * weight.rows + first);
        }
    }
}

// Writes output (tokens, rows) for input (tokens, columns), at most FEW tokens.
inline void apply_few(const Rows& weight, const Grid& grid, const float* input, int64_t tokens, float* output,
                      int threads) {
    const int64_t stride = blocks(weight.columns) * BLOCK, sets = (weight.rows + TOGETHER - 1) / TOGETHER;
    const Scratch<ForFewTokens> memory(tokens * stride / 4);
    uint8_t* codes = reinterpret_cast<uint8_t*>(memory.words());
    Token known[FEW];
    for (int64_t token = 0; token < tokens; token++)
        known[token] = round_token(grid, input + token * weight.columns, weight.columns, codes + token * stride);
    const auto work = [&](int member, int members, Barrier&) {
        const int64_t from = sets * member / members * TOGETHER;
        const int64_t to = std::min(sets * (member + 1) / members * TOGETHER, weight.rows);
        switch (tokens) {
            case 1: return multiply_rows<1>(weight, grid, known, codes, from, to, output);
            case 2: return multiply_rows<2>(weight, grid, known, codes, from, to, output);
            case 3: return multiply_rows<3>(weight, grid, known, codes, from, to, output);
            case 4: return multiply_rows<4>(weight, grid, known, codes, from, to, output);
        }
    };
    const bool small = weight.starts[weight.rows - 1] < SHARED_BYTES;
    if (tokens > 0) team().run(small ? 1 : (int)std::min<int64_t>(threads, sets), work);
}

}  // namespace
