// Elementary functions and activations on vectors, without fused multiply-adds: all paths round alike.

#pragma once

#include <initializer_list>

#include "vectors.h"

namespace {

// All functions take several vectors, so that the processor computes one while steps of another wait.

// e^x with a relative error of at most 2e-7 from -87 to 88; outside that range, the value at its end.
template <int COUNT>
inline void exponential(Float (&values)[COUNT]) {
    Float whole[COUNT], rest[COUNT], series[COUNT];
#pragma GCC unroll 16
    for (int at = 0; at < COUNT; at++) {
        const Float value = at_most(at_least(values[at], every(-87.0f)), every(88.0f));
        // value = whole * ln 2 + rest. ln 2 is in two parts, of which the first has few digits.
        whole[at] = nearest(value * every(1.44269504f));
        rest[at] = value - whole[at] * every(0.693359375f) + whole[at] * every(2.12194440e-4f);
        // The first seven terms of the series of e^rest; |rest| is below 0.35.
        series[at] = every(1.3888889e-3f);
    }
#pragma GCC unroll 16
    for (float coefficient : {8.3333333e-3f, 4.1666667e-2f, 1.6666667e-1f, 0.5f, 1.0f, 1.0f})
#pragma GCC unroll 16
        for (int at = 0; at < COUNT; at++) series[at] = series[at] * rest[at] + every(coefficient);
#pragma GCC unroll 16
    for (int at = 0; at < COUNT; at++) values[at] = series[at] * number((to_int(whole[at]) + 127) << 23);
}

template <int COUNT>
inline void sigmoid(Float (&values)[COUNT]) {
    for (Float& value : values) value = -value;
    exponential(values);
    for (Float& value : values) value = every(1.0f) / (every(1.0f) + value);
}

// x * P(a normal variable is below x), with an absolute error of at most 5e-5, largest near |x| = 4.5. The odd
// polynomial approximates P - 1/2 from -4.5 to 4.5 with the smallest maximum error of the product.
template <int COUNT>
inline void gelu(Float (&values)[COUNT]) {
    Float bounded[COUNT], square[COUNT], series[COUNT];
#pragma GCC unroll 16
    for (int at = 0; at < COUNT; at++) {
        bounded[at] = at_most(at_least(values[at], every(-4.5f)), every(4.5f));
        square[at] = bounded[at] * bounded[at];
        series[at] = every(3.036428400e-11f);
    }
#pragma GCC unroll 16
    for (float coefficient : {-3.314668762e-09f, 1.591000114e-07f, -4.451735549e-06f, 8.142523438e-05f,
                              -1.037591719e-03f, 9.585204534e-03f, -6.598465890e-02f, 3.987126052e-01f})
#pragma GCC unroll 16
        for (int at = 0; at < COUNT; at++) series[at] = series[at] * square[at] + every(coefficient);
#pragma GCC unroll 16
    for (int at = 0; at < COUNT; at++) {
        const Float below = every(0.5f) + bounded[at] * series[at];
        values[at] = values[at] * at_most(at_least(below, every(0.0f)), every(1.0f));
    }
}

// GELU approximated by tanh(a), as x * sigmoid(2 a).
template <int COUNT>
inline void gelu_tanh(Float (&values)[COUNT]) {
    Float found[COUNT];
    for (int at = 0; at < COUNT; at++) {
        const Float value = values[at], cube = value * value * value;
        found[at] = every(1.59576912f) * (value + every(0.044715f) * cube);
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
