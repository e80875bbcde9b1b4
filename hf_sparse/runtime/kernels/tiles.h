// Tiles of TOKENS tokens: floats [feature][token], and codes as words [group][token] or lines [feature][token].

#pragma once

#include "functions.h"
#include "product.h"

namespace {

// The grid of one layer's input: step and zero point of each token of a tile, or one for all tokens.
struct Grid {
    float step, zero;          // of a fixed grid
    int64_t dynamic;           // 0 fixed; from the values of each token: 1 over -max to max, 2 over min to max
};

// `broken` has all bits set for tokens with values that are not numbers; codes cannot hold NaN, outputs become NaN.
struct Scales {
    Float step[DEPTH];
    Int zero[DEPTH];
    Int broken[DEPTH];
    bool any_broken;
};

// The code of a value, still to be clipped to 0 by those that store it. NaN becomes any code.
inline Int code_of(Float value, Float inverse, Float zero) {
    return rounded(at_most(fused(value, inverse, zero), every(255.0f)));
}

// Stores the codes of ROWS features, from `first` on, in a tile of codes.
inline void store_codes(const Int codes[ROWS][DEPTH], int64_t first, bool lines, int32_t* tile) {
    if (lines) {
        Line* line = reinterpret_cast<Line*>(tile) + first;
        for (int row = 0; row < ROWS; row++) store_line(line[row], codes[row]);
        return;
    }
    int32_t* group = tile + first / GROUP * TOKENS;
    for (int from = 0; from < ROWS; from += GROUP, group += TOKENS)
        for (int part = 0; part < DEPTH; part++) {
            Int together[GROUP];
            for (int feature = 0; feature < GROUP; feature++) together[feature] = codes[from + feature][part];
            store(group + part * LANES, word(together));
        }
}

inline Scales fixed_scales(const Grid& grid) {
    Scales scales{};
    for (int part = 0; part < DEPTH; part++) {
        scales.step[part] = every(grid.step);
        scales.zero[part] = every((int32_t)grid.zero);
    }
    return scales;
}

// The smallest and largest value of each token, and 0.
struct Range {
    Float low[DEPTH] = {}, high[DEPTH] = {};

    void take(const Float values[DEPTH]) {
        for (int part = 0; part < DEPTH; part++) {
            low[part] = at_most(values[part], low[part]);
            high[part] = at_least(values[part], high[part]);
        }
    }

    // Step and zero of each token; any step for tokens with values that are not finite.
    Scales scales(const Grid& grid) const {
        Scales found{};
        for (int part = 0; part < DEPTH; part++) {
            const Float least = at_least(low[part], every(-3e38f)), most = at_most(high[part], every(3e38f));
            Float step, zero;
            if (grid.dynamic == 1) {
                step = (most > -least ? most : -least) / every(127.0f);
                zero = every(128.0f);
            } else {
                step = most / every(255.0f) - least / every(255.0f);
                zero = nearest(-least / (step > every(0.0f) ? step : every(1.0f)));
            }
            found.step[part] = step > every(0.0f) ? step : every(1.0f);
            found.zero[part] = to_int(zero);
        }
        return found;
    }
};

inline Scales dynamic_scales(const Grid& grid, const float* values, int64_t features) {
    Range range;
    for (int64_t feature = 0; feature < features; feature++, values += TOKENS) {
        Float line[DEPTH];
        for (int part = 0; part < DEPTH; part++) line[part] = load(values + part * LANES);
        range.take(line);
    }
    return range.scales(grid);
}

// Marks the tokens whose largest absolute value is NaN, or infinity on a dynamic grid, whose step depends on it. On a
// fixed grid infinity is clipped to the end, as any large number is.
inline void mark_broken(Scales& scales, const Grid& grid, const Int largest[DEPTH]) {
    Int all{};
    for (int part = 0; part < DEPTH; part++) {
        scales.broken[part] = (Int)(largest[part] > every(grid.dynamic ? INFINITE - 1 : INFINITE));
        all |= scales.broken[part];
    }
    for (int lane = 0; lane < LANES; lane++) scales.any_broken |= all[lane] != 0;
}

// Rounds the values of a tile to codes, ROWS features at a time.
struct Rounding {
    Rounding(Scales& scales, const Grid& grid, bool lines, int32_t* tile)
        : scales_(scales), grid_(grid), lines_(lines), tile_(tile) {
        for (int part = 0; part < DEPTH; part++) {
            inverse_[part] = every(1.0f) / scales.step[part];
            zero_[part] = to_float(scales.zero[part]);
        }
    }

    // Padding features have values of 0, so they get the code of zero.
    void take(int64_t first, const Float values[ROWS][DEPTH]) {
        Int codes[ROWS][DEPTH];
        for (int row = 0; row < ROWS; row++)
            for (int part = 0; part < DEPTH; part++) {
                largest_[part] = larger(largest_[part], size_of(values[row][part]));
                codes[row][part] = code_of(values[row][part], inverse_[part], zero_[part]);
            }
        store_codes(codes, first, lines_, tile_);
    }

    void finish() { mark_broken(scales_, grid_, largest_); }

private:
    Scales& scales_;
    const Grid& grid_;
    const bool lines_;
    int32_t* const tile_;
    Float inverse_[DEPTH], zero_[DEPTH];
    Int largest_[DEPTH] = {};
};

// Rounds `features` of a tile, the first of which is `first`, a multiple of ROWS.
inline void round_some(Rounding& rounding, const float* values, int64_t first, int64_t features) {
    for (int64_t next = 0; next < features; next += ROWS) {
        Float some[ROWS][DEPTH] = {};
        for (int row = 0; row < ROWS && next + row < features; row++)
            for (int part = 0; part < DEPTH; part++)
                some[row][part] = load(values + (next + row) * TOKENS + part * LANES);
        rounding.take(first + next, some);
    }
}

inline void quantize(Scales& scales, const Grid& grid, const float* values, int64_t features, bool lines,
                     int32_t* tile) {
    Rounding rounding(scales, grid, lines, tile);
    round_some(rounding, values, 0, features);
    rounding.finish();
}

// What the sums of a row begin with: on a fixed grid the part of its zero point, the same for all tokens.
inline void initial_sums(const Matrix& matrix, int64_t stripe, const Grid& grid, int32_t initial[ROWS]) {
    for (int row = 0; row < ROWS; row++)
        initial[row] = grid.dynamic ? 0 : (SHIFT - (int32_t)grid.zero) * matrix.row_sums[stripe * ROWS + row];
}

// Turns the sums of a stripe into floats, [ROWS][TOKENS], before any activation; NaN for broken tokens.
inline void restore(const Matrix& matrix, int64_t stripe, const Grid& grid, const Scales& scales,
                    const int32_t* sums, Float found[ROWS][DEPTH]) {
    for (int row = 0; row < ROWS; row++) {
        const int64_t index = stripe * ROWS + row;
        const Float multiplier = every(matrix.multipliers[index]), bias = every(matrix.biases[index]);
        const int32_t weights = matrix.row_sums[index];
        for (int part = 0; part < DEPTH; part++) {
            const Int sum = load(sums + row * TOKENS + part * LANES);
            found[row][part] =
                grid.dynamic ? fused(to_float(sum - (scales.zero[part] - SHIFT) * weights) * multiplier,
                                     scales.step[part], bias)
                             : fused(to_float(sum), multiplier, bias);
        }
    }
    if (!scales.any_broken) return;
    for (int row = 0; row < ROWS; row++)
        for (int part = 0; part < DEPTH; part++)
            found[row][part] = number(bits(found[row][part]) | scales.broken[part]);
}

}  // namespace
