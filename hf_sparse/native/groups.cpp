// Norms of groups of float32 weights, the gradient of their weighted sum, and their proximal step: one pass each.
//
// A weight is a row-major matrix of rows x columns, tiled by groups of tall x wide. A band of `tall` rows is read
// once for the norms and once more, from the cache, for the result; `scratch` holds two rows of floats.

#include <algorithm>
#include <cmath>
#include <cstdint>

#if defined(__GNUC__) && defined(__x86_64__) && defined(__GLIBC__)
// The loader picks the version for the processor. None has fused multiply-adds, so that all round alike.
#define FOR_EVERY_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EVERY_CPU
#endif
#define INLINED static inline __attribute__((always_inline))

namespace {

// Sums of squares down the columns of a band.
INLINED void sum_down(const float* band, int64_t columns, int64_t tall, float* __restrict sums) {
  for (int64_t j = 0; j < columns; ++j) sums[j] = band[j] * band[j];
  for (int64_t i = 1; i < tall; ++i) {
    const float* row = band + i * columns;
    for (int64_t j = 0; j < columns; ++j) sums[j] += row[j] * row[j];
  }
}

// Sum of a run in eight lanes, in an order that vectors can keep.
INLINED float sum_run(const float* run, int64_t count) {
  float lanes[8] = {};
  int64_t at = 0;
  for (; at + 8 <= count; at += 8)
    for (int64_t lane = 0; lane < 8; ++lane) lanes[lane] += run[at + lane];
  for (int64_t lane = 0; at < count; ++at, ++lane) lanes[lane] += run[at];
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

template <int64_t kWide>
INLINED void pool_runs(const float* sums, int64_t groups, float* __restrict pooled) {
  for (int64_t g = 0; g < groups; ++g) {
    float sum = sums[g * kWide];
    for (int64_t j = 1; j < kWide; ++j) sum += sums[g * kWide + j];
    pooled[g] = sum;
  }
}

template <int64_t kWide>
INLINED void repeat_runs(const float* values, int64_t groups, float* __restrict repeated) {
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t j = 0; j < kWide; ++j) repeated[g * kWide + j] = values[g];
}

// Norms of the groups of a band; `sums` holds a row of floats.
INLINED void band_norms(const float* band, int64_t columns, int64_t tall, int64_t wide, float* __restrict sums,
                        float* __restrict norms) {
  const int64_t groups = columns / wide;
  sum_down(band, columns, tall, sums);
  switch (wide) {
    case 1: std::copy(sums, sums + groups, norms); break;
    case 2: pool_runs<2>(sums, groups, norms); break;
    case 4: pool_runs<4>(sums, groups, norms); break;
    case 8: pool_runs<8>(sums, groups, norms); break;
    default:
      for (int64_t g = 0; g < groups; ++g) norms[g] = sum_run(sums + g * wide, wide);
  }
  for (int64_t g = 0; g < groups; ++g) norms[g] = std::sqrt(norms[g]);
}

// The factor of each group, for every column of its band.
INLINED void spread(const float* factors, int64_t columns, int64_t wide, float* __restrict spread_out) {
  const int64_t groups = columns / wide;
  switch (wide) {
    case 1: std::copy(factors, factors + groups, spread_out); break;
    case 2: repeat_runs<2>(factors, groups, spread_out); break;
    case 4: repeat_runs<4>(factors, groups, spread_out); break;
    case 8: repeat_runs<8>(factors, groups, spread_out); break;
    default:
      for (int64_t g = 0; g < groups; ++g)
        std::fill(spread_out + g * wide, spread_out + (g + 1) * wide, factors[g]);
  }
}

}  // namespace

extern "C" {

FOR_EVERY_CPU void group_norms(const float* weight, int64_t rows, int64_t columns, int64_t tall, int64_t wide,
                               float* scratch, float* norms) {
  const int64_t groups = columns / wide;
  for (int64_t band = 0; band < rows / tall; ++band)
    band_norms(weight + band * tall * columns, columns, tall, wide, scratch, norms + band * groups);
}

// gradient += scale * factors * weight / norms, except in groups of zeros; returns scale * sum(factors * norms).
FOR_EVERY_CPU double add_group_gradient(const float* weight, float* gradient, const float* factors, float scale,
                                        int64_t rows, int64_t columns, int64_t tall, int64_t wide,
                                        float* scratch) {
  const int64_t groups = columns / wide;
  float* norms = scratch + columns;
  double total = 0;
  for (int64_t band = 0; band < rows / tall; ++band) {
    const float* from = weight + band * tall * columns;
    const float* share = factors + band * groups;
    float* into = gradient + band * tall * columns;
    band_norms(from, columns, tall, wide, scratch, norms);
    float lanes[8] = {};
    for (int64_t g = 0; g + 8 <= groups; g += 8)
      for (int64_t lane = 0; lane < 8; ++lane) lanes[lane] += share[g + lane] * norms[g + lane];
    for (int64_t g = groups / 8 * 8; g < groups; ++g) lanes[g % 8] += share[g] * norms[g];
    for (float lane : lanes) total += lane;
    for (int64_t g = 0; g < groups; ++g) norms[g] = norms[g] > 0 ? scale * share[g] / norms[g] : 0.0f;
    spread(norms, columns, wide, scratch);
    for (int64_t i = 0; i < tall; ++i)
      for (int64_t j = 0; j < columns; ++j)
        into[i * columns + j] += scratch[j] * from[i * columns + j];
  }
  return scale * total;
}

// The proximal step: weight *= max(0, 1 - scale * rates / norms).
FOR_EVERY_CPU void shorten_groups(float* weight, const float* rates, float scale, int64_t rows, int64_t columns,
                                 int64_t tall, int64_t wide, float* scratch) {
  const int64_t groups = columns / wide;
  float* norms = scratch + columns;
  for (int64_t band = 0; band < rows / tall; ++band) {
    float* from = weight + band * tall * columns;
    const float* rate = rates + band * groups;
    band_norms(from, columns, tall, wide, scratch, norms);
    for (int64_t g = 0; g < groups; ++g)
      norms[g] = norms[g] <= scale * rate[g] ? 0.0f : 1 - scale * rate[g] / norms[g];
    spread(norms, columns, wide, scratch);
    for (int64_t i = 0; i < tall; ++i)
      for (int64_t j = 0; j < columns; ++j) from[i * columns + j] *= scratch[j];
  }
}
}
