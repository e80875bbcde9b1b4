// Elementary functions and activations on vectors.

#pragma once

#include "vectors.h"

namespace {

// All functions take several vectors, so that the processor computes one while steps of another wait.

// The polynomial with these coefficients, the highest first, of COUNT vectors at a time.
template <int COUNT, int TERMS>
inline void polynomial(const Float (&values)[COUNT], const float (&coefficients)[TERMS], Float (&found)[COUNT]) {
#pragma GCC unroll 16
    for (int at = 0; at < COUNT; at++) found[at] = every(coefficients[0]);
#pragma GCC unroll 16
    for (int term = 1; term < TERMS; term++)
#pragma GCC unroll 16
        for (int at = 0; at < COUNT; at++) found[at] = fused(found[at], values[at], every(coefficients[term]));
}

// value * 2^exponent, where the low bits of `exponent`, a sum with MAGIC, hold the exponent.
inline Float scaled(Float value, Float exponent) {
    // Sums of unsigned numbers may pass the end.
    typedef uint32_t Whole __attribute__((vector_size(4 * LANES)));
    return number((Int)((Whole)bits(value) + ((Whole)bits(exponent) << 23)));
}

// e^x with a relative error of at most 2e-7 from -87 to 88; outside that range, the value at its end.
template <int COUNT>
inline void exponential(Float (&values)[COUNT]) {
    // The first seven terms of the series of e^rest; |rest| is below 0.35.
    static constexpr float SERIES[] = {1.3888889e-3f, 8.3333333e-3f, 4.1666667e-2f, 1.6666667e-1f, 0.5f, 1.0f, 1.0f};
    Float exponent[COUNT], rest[COUNT], series[COUNT];
#pragma GCC unroll 16
    for (int at = 0; at < COUNT; at++) {
        const Float value = at_most(at_least(values[at], every(-87.0f)), every(88.0f));
        // value = whole * ln 2 + rest. ln 2 is in two parts, of which the first has few digits.
        exponent[at] = fused(value, every(1.44269504f), every(MAGIC));
        const Float whole = exponent[at] - every(MAGIC);
        rest[at] = fused(whole, every(2.12194440e-4f), fused(whole, every(-0.693359375f), value));
    }
    polynomial(rest, SERIES, series);
#pragma GCC unroll 16
    for (int at = 0; at < COUNT; at++) values[at] = scaled(series[at], exponent[at]);
}

// 2^(x * factor) with a relative error of at most 8e-5, for x * factor from -120 to 0.
template <int COUNT>
inline void power_of_two(Float (&values)[COUNT], Float factor) {
    // The smallest maximum relative error from -1/2 to 1/2.
    static constexpr float SERIES[] = {5.517101e-2f, 2.426112e-1f, 6.9326108e-1f, 9.9992807e-1f};
    Float exponent[COUNT], rest[COUNT], series[COUNT];
#pragma GCC unroll 16
    for (int at = 0; at < COUNT; at++) {
        exponent[at] = fused(values[at], factor, every(MAGIC));
        rest[at] = fused(values[at], factor, every(MAGIC) - exponent[at]);
    }
    polynomial(rest, SERIES, series);
#pragma GCC unroll 16
    for (int at = 0; at < COUNT; at++) values[at] = scaled(series[at], exponent[at]);
}

template <int COUNT>
inline void sigmoid(Float (&values)[COUNT]) {
    for (Float& value : values) value = -value;
    exponential(values);
    for (Float& value : values) value = every(1.0f) / (every(1.0f) + value);
}

// x * P(a normal variable is below x), with an absolute error of at most 3e-5: the larger of x and 0, less
// |x| * P(a normal variable is below -|x|). That P is the fourth power of a polynomial, which has the smallest maximum
// error of the product, and a root where the product is taken as zero.
template <int COUNT>
inline void gelu(Float (&values)[COUNT]) {
    static constexpr float SERIES[] = {4.92373280e-4f, 2.84628732e-3f, -8.48835919e-3f,
                                       -5.46109411e-2f, 1.65762735e-1f, 8.40630419e-1f};
    Float negative[COUNT], series[COUNT];
#pragma GCC unroll 16
    for (int at = 0; at < COUNT; at++)
        negative[at] = at_least(number(bits(values[at]) | every(INT32_MIN)), every(-4.28140127f));
    polynomial(negative, SERIES, series);
#pragma GCC unroll 16
    for (int at = 0; at < COUNT; at++) {
        const Float square = series[at] * series[at];
        values[at] = fused(negative[at], square * square, at_least(values[at], every(0.0f)));
    }
}

// GELU approximated by tanh(a), as x * sigmoid(2 a).
template <int COUNT>
inline void gelu_tanh(Float (&values)[COUNT]) {
    Float found[COUNT];
    for (int at = 0; at < COUNT; at++) {
        const Float value = values[at], cube = value * value * value;
        found[at] = every(1.59576912f) * fused(every(0.044715f), cube, value);
    }
    sigmoid(found);
    for (int at = 0; at < COUNT; at++) values[at] = values[at] * found[at];
}

template <int COUNT>
inline void silu(Float (&values)[COUNT]) {
    Float found[COUNT];
    for (int at = 0; at < COUNT; at++) found[at] = values[at];
    sigmoid(found);
    for (int at = 0; at < COUNT; at++) values[at] = values[at] * found[at];
}

enum Activation : int64_t { IDENTITY = 0, RELU = 1, GELU = 2, GELU_TANH = 3, SILU = 4 };

// Vectors that are computed together: as many as fit the registers with their intermediate values.
constexpr int WAYS = LANES == 16 || (LANES == 4 && GROUP == 4) ? 8 : 4;

template <int COUNT>
inline void activate(int64_t activation, Float (&values)[COUNT]) {
    if (activation == IDENTITY) return;
    static_assert(COUNT % WAYS == 0, "vectors come in whole sets");
#pragma GCC unroll 1
    for (int from = 0; from < COUNT; from += WAYS) {
        Float (&some)[WAYS] = *reinterpret_cast<Float(*)[WAYS]>(values + from);
        switch (activation) {
            case RELU:
                for (Float& value : some) value = at_least(value, every(0.0f));
                break;
            case GELU: gelu(some); break;
            case GELU_TANH: gelu_tanh(some); break;
            case SILU: silu(some); break;
        }
    }
}

}  // namespace
