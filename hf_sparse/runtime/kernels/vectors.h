// The vectors of one path, chosen by the macro that its flags define. This is the only file that differs by path.
// A path has a branch of
//   the #include block             for the header of its intrinsics
//   LANES, GROUP                   its vectors and words
//   SHIFT                          if it multiplies signed bytes
//   dot(), dot_halves()            its products
//   words()                        if GROUP is 4; else the portable code will do
//   at_least(), at_most(), larger(), fused(), rounded(), store_line(), word(), halves()
//                                  if its instructions do better than the portable code
//
// All arithmetic runs along tokens: a lane is a token. So nothing is summed across lanes, and every path gives the
// same bits, however wide its vectors are. few_tokens.h alone has columns in its lanes, and sums integers across them.
//
// A word holds the codes of GROUP consecutive features of one token: four bytes if the processor multiplies bytes
// without overflow, else two halves of 16 bits.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(HF_SPARSE_AVX512_VNNI) || defined(HF_SPARSE_AVX_VNNI) || defined(HF_SPARSE_AVX2)
#ifdef HF_SPARSE_EMULATED
// For tests alone: the same code on a processor without these instructions.
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#else
#include <immintrin.h>
#endif
#elif defined(HF_SPARSE_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(HF_SPARSE_AVX512_VNNI)
constexpr int LANES = 16, GROUP = 4;
#elif defined(HF_SPARSE_AVX_VNNI)
constexpr int LANES = 8, GROUP = 4;
#elif defined(HF_SPARSE_AVX2)
constexpr int LANES = 8, GROUP = 2;
#elif defined(HF_SPARSE_NEON)
constexpr int LANES = 4, GROUP = 4;
#else
constexpr int LANES = 4, GROUP = 2;
#endif

#if defined(HF_SPARSE_NEON)
// The instruction multiplies signed bytes, so codes of activations are stored minus 128.
constexpr int SHIFT = 128;
#else
constexpr int SHIFT = 0;
#endif

// Tokens of a tile: a line, the codes of one feature of a tile, is one vector, and GROUP lines are GROUP vectors of
// words.
constexpr int DEPTH = GROUP, TOKENS = DEPTH * LANES;
// Rows of weights that share the activations they load.
constexpr int ROWS = 4;

typedef int32_t Int __attribute__((vector_size(4 * LANES)));
typedef float Float __attribute__((vector_size(4 * LANES)));
// The same without alignment beyond 32 bits, and free to alias float and int32_t.
typedef int32_t LooseInt __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float LooseFloat __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

using Code = typename std::conditional<GROUP == 4, uint8_t, int16_t>::type;
using Line = Code[TOKENS];

inline Int load(const int32_t* from) { return *reinterpret_cast<const LooseInt*>(from); }
inline Float load(const float* from) { return *reinterpret_cast<const LooseFloat*>(from); }
inline void store(int32_t* to, Int value) { *reinterpret_cast<LooseInt*>(to) = value; }
inline void store(float* to, Float value) { *reinterpret_cast<LooseFloat*>(to) = value; }

inline Int every(int32_t value) { return Int{} + value; }
inline Float every(float value) { return Float{} + value; }
inline Float to_float(Int value) { return __builtin_convertvector(value, Float); }
inline Int to_int(Float whole) { return __builtin_convertvector(whole, Int); }
inline Int bits(Float value) { return reinterpret_cast<Int>(value); }
inline Float number(Int bits) { return reinterpret_cast<Float>(bits); }

// The larger and the smaller of two; the bound for NaN. Compilers turn `a > b ? a : b` into three instructions.
inline Float at_least(Float value, Float bound) {
#if defined(HF_SPARSE_AVX512_VNNI)
    return (Float)_mm512_max_ps((__m512)value, (__m512)bound);
#elif defined(HF_SPARSE_AVX_VNNI) || defined(HF_SPARSE_AVX2)
    return (Float)_mm256_max_ps((__m256)value, (__m256)bound);
#elif defined(HF_SPARSE_NEON)
    return (Float)vmaxnmq_f32((float32x4_t)value, (float32x4_t)bound);
#else
    return value > bound ? value : bound;
#endif
}
inline Float at_most(Float value, Float bound) {
#if defined(HF_SPARSE_AVX512_VNNI)
    return (Float)_mm512_min_ps((__m512)value, (__m512)bound);
#elif defined(HF_SPARSE_AVX_VNNI) || defined(HF_SPARSE_AVX2)
    return (Float)_mm256_min_ps((__m256)value, (__m256)bound);
#elif defined(HF_SPARSE_NEON)
    return (Float)vminnmq_f32((float32x4_t)value, (float32x4_t)bound);
#else
    return value < bound ? value : bound;
#endif
}

inline Int larger(Int one, Int other) {
#if defined(HF_SPARSE_AVX512_VNNI)
    return (Int)_mm512_max_epi32((__m512i)one, (__m512i)other);
#elif defined(HF_SPARSE_AVX_VNNI) || defined(HF_SPARSE_AVX2)
    return (Int)_mm256_max_epi32((__m256i)one, (__m256i)other);
#elif defined(HF_SPARSE_NEON)
    return (Int)vmaxq_s32((int32x4_t)one, (int32x4_t)other);
#else
    return one > other ? one : other;
#endif
}

// Absolute values of floats as integers in the same order; infinity is above all numbers, NaN above infinity.
constexpr int32_t INFINITE = 0x7f800000;
inline Int size_of(Float value) { return bits(value) & every(0x7fffffff); }

// value * factor + term, rounded once; by the instruction, or by float64, where the product is exact. Before the sum
// there is rounded to float32 its last bit is made odd unless it is exact: then rounding twice does what rounding once
// would. Not inlined, since it is long.
__attribute__((noinline, unused)) Float fused_by_float64(Float value, Float factor, Float term) {
    typedef double Double __attribute__((vector_size(8 * LANES)));
    typedef int64_t Long __attribute__((vector_size(8 * LANES)));
    const Double product = __builtin_convertvector(value, Double) * __builtin_convertvector(factor, Double);
    const Double other = __builtin_convertvector(term, Double);
    Double sum = product + other;
    const Double back = sum - product;
    const Double error = (product - (sum - back)) + (other - back);
    const Long above = (error > 0) & (sum > 0), below = (error < 0) & (sum < 0);
    const Long inwards = ((error > 0) & (sum < 0)) | ((error < 0) & (sum > 0));
    const Long bits = reinterpret_cast<Long>(sum), even = (Long)((bits & 1) == 0);
    sum = reinterpret_cast<Double>(bits - (even & (above | below)) + (even & inwards));
    return __builtin_convertvector(sum, Float);
}

inline Float fused(Float value, Float factor, Float term) {
#if defined(HF_SPARSE_EMULATED)
    // The emulator rounds twice.
    return fused_by_float64(value, factor, term);
#elif defined(HF_SPARSE_AVX512_VNNI)
    return (Float)_mm512_fmadd_ps((__m512)value, (__m512)factor, (__m512)term);
#elif defined(HF_SPARSE_AVX_VNNI) || defined(HF_SPARSE_AVX2)
    return (Float)_mm256_fmadd_ps((__m256)value, (__m256)factor, (__m256)term);
#elif defined(HF_SPARSE_NEON)
    return (Float)vfmaq_f32((float32x4_t)term, (float32x4_t)value, (float32x4_t)factor);
#else
    return fused_by_float64(value, factor, term);
#endif
}

// 1.5 * 2^23: a float to which it is added is rounded to a whole number, ties to even, which the low bits then hold.
constexpr float MAGIC = 12582912.0f;

// The nearest whole number, ties to even, of values between -2^22 and 2^22.
inline Float nearest(Float value) { return value + every(MAGIC) - every(MAGIC); }

// The same of values below 2^22, as an integer; some number below -2^21 for lesser values, any for NaN.
inline Int rounded(Float value) {
#if defined(HF_SPARSE_AVX512_VNNI)
    return (Int)_mm512_cvtps_epi32((__m512)value);
#elif defined(HF_SPARSE_AVX_VNNI) || defined(HF_SPARSE_AVX2)
    return (Int)_mm256_cvtps_epi32((__m256)value);
#elif defined(HF_SPARSE_NEON)
    return (Int)vcvtnq_s32_f32((float32x4_t)value);
#else
    return bits(at_least(value, every(-4194304.0f)) + every(MAGIC)) - bits(every(MAGIC));
#endif
}

// sum += the products of the codes in words with GROUP weights, which are the same for all tokens.
inline Int dot(Int sum, Int words, Int weights);
// The same for two halves, whatever GROUP is.
inline Int dot_halves(Int sum, Int words, Int weights);

#if defined(HF_SPARSE_AVX512_VNNI)

#ifdef HF_SPARSE_EMULATED
inline Int dot(Int sum, Int words, Int weights) {
    return (Int)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)words, (__m512i)weights);
}
inline Int dot_halves(Int sum, Int words, Int weights) {
    return (Int)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)words, (__m512i)weights);
}
#else
// In assembly: around the intrinsics compilers copy sums between registers, at half the speed.
inline Int dot(Int sum, Int words, Int weights) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(words), "v"(weights));
    return sum;
}
inline Int dot_halves(Int sum, Int words, Int weights) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(words), "v"(weights));
    return sum;
}
#endif

#elif defined(HF_SPARSE_AVX_VNNI)

#ifdef HF_SPARSE_EMULATED
inline Int dot(Int sum, Int words, Int weights) {
    return (Int)_mm256_dpbusd_epi32((__m256i)sum, (__m256i)words, (__m256i)weights);
}
inline Int dot_halves(Int sum, Int words, Int weights) {
    return (Int)_mm256_dpwssd_epi32((__m256i)sum, (__m256i)words, (__m256i)weights);
}
#else
inline Int dot(Int sum, Int words, Int weights) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(words), "x"(weights));
    return sum;
}
inline Int dot_halves(Int sum, Int words, Int weights) {
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(words), "x"(weights));
    return sum;
}
#endif

#elif defined(HF_SPARSE_AVX2)

inline Int dot(Int sum, Int words, Int weights) {
    sum += (Int)_mm256_madd_epi16((__m256i)words, (__m256i)weights);
    return sum;
}
inline Int dot_halves(Int sum, Int words, Int weights) { return dot(sum, words, weights); }

#elif defined(HF_SPARSE_NEON)

inline Int dot(Int sum, Int words, Int weights) {
    return (Int)vdotq_s32((int32x4_t)sum, vreinterpretq_s8_s32((int32x4_t)words),
                          vreinterpretq_s8_s32((int32x4_t)weights));
}
inline Int dot_halves(Int sum, Int words, Int weights) {
    const int16x8_t first = vreinterpretq_s16_s32((int32x4_t)words);
    const int16x8_t second = vreinterpretq_s16_s32((int32x4_t)weights);
    const int32x4_t low = vmull_s16(vget_low_s16(first), vget_low_s16(second));
    const int32x4_t high = vmull_high_s16(first, second);
    return sum + (Int)vpaddq_s32(low, high);
}

#else

inline Int dot_halves(Int sum, Int words, Int weights) {
    // Shifts take the halves apart and keep the sign of the lower one.
    const Int low = (Int)((Int)((words << 16)) >> 16) * (Int)((Int)((weights << 16)) >> 16);
    return sum + low + (words >> 16) * (weights >> 16);
}
inline Int dot(Int sum, Int words, Int weights) { return dot_halves(sum, words, weights); }

#endif

// Clips codes below 0; those above 255 were clipped as floats.
inline Int stored(Int code) { return larger(code, every(0)) - SHIFT; }

// Stores the codes of one feature, clipped to 0 at least and 255 at most, as a line. The order of a line differs by
// path; words() restores it.
inline void store_line(Code* line, const Int codes[DEPTH]) {
#if defined(HF_SPARSE_AVX512_VNNI)
    const __m512i low = _mm512_packs_epi32((__m512i)codes[0], (__m512i)codes[1]);
    const __m512i high = _mm512_packs_epi32((__m512i)codes[2], (__m512i)codes[3]);
    _mm512_storeu_si512((void*)line, _mm512_packus_epi16(low, high));
#elif defined(HF_SPARSE_AVX_VNNI)
    const __m256i low = _mm256_packs_epi32((__m256i)codes[0], (__m256i)codes[1]);
    const __m256i high = _mm256_packs_epi32((__m256i)codes[2], (__m256i)codes[3]);
    _mm256_storeu_si256((__m256i*)line, _mm256_packus_epi16(low, high));
#elif defined(HF_SPARSE_AVX2)
    const __m256i both = _mm256_packs_epi32((__m256i)codes[0], (__m256i)codes[1]);
    _mm256_storeu_si256((__m256i*)line, _mm256_max_epi16(both, _mm256_setzero_si256()));
#else
    for (int part = 0; part < DEPTH; part++) {
        const Int code = stored(codes[part]);
        for (int lane = 0; lane < LANES; lane++) line[part * LANES + lane] = (Code)code[lane];
    }
#endif
}

// Words of any GROUP lines.
inline void words(const Code* const lines[GROUP], Int found[DEPTH]) {
#if defined(HF_SPARSE_AVX512_VNNI)
    const __m512i a = _mm512_loadu_si512((const void*)lines[0]);
    const __m512i b = _mm512_loadu_si512((const void*)lines[1]);
    const __m512i c = _mm512_loadu_si512((const void*)lines[2]);
    const __m512i d = _mm512_loadu_si512((const void*)lines[3]);
    const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
    const __m512i AB = _mm512_unpackhi_epi8(a, b), CD = _mm512_unpackhi_epi8(c, d);
    found[0] = (Int)_mm512_unpacklo_epi16(ab, cd);
    found[1] = (Int)_mm512_unpackhi_epi16(ab, cd);
    found[2] = (Int)_mm512_unpacklo_epi16(AB, CD);
    found[3] = (Int)_mm512_unpackhi_epi16(AB, CD);
#elif defined(HF_SPARSE_AVX_VNNI)
    const __m256i a = _mm256_loadu_si256((const __m256i*)lines[0]);
    const __m256i b = _mm256_loadu_si256((const __m256i*)lines[1]);
    const __m256i c = _mm256_loadu_si256((const __m256i*)lines[2]);
    const __m256i d = _mm256_loadu_si256((const __m256i*)lines[3]);
    const __m256i ab = _mm256_unpacklo_epi8(a, b), cd = _mm256_unpacklo_epi8(c, d);
    const __m256i AB = _mm256_unpackhi_epi8(a, b), CD = _mm256_unpackhi_epi8(c, d);
    found[0] = (Int)_mm256_unpacklo_epi16(ab, cd);
    found[1] = (Int)_mm256_unpackhi_epi16(ab, cd);
    found[2] = (Int)_mm256_unpacklo_epi16(AB, CD);
    found[3] = (Int)_mm256_unpackhi_epi16(AB, CD);
#elif defined(HF_SPARSE_AVX2)
    const __m256i a = _mm256_loadu_si256((const __m256i*)lines[0]);
    const __m256i b = _mm256_loadu_si256((const __m256i*)lines[1]);
    found[0] = (Int)_mm256_unpacklo_epi16(a, b);
    found[1] = (Int)_mm256_unpackhi_epi16(a, b);
#elif defined(HF_SPARSE_NEON)
    // Four vectors of bytes, stored interleaved, are the words.
    uint8x16x4_t together;
    for (int feature = 0; feature < 4; feature++) together.val[feature] = vld1q_u8(lines[feature]);
    uint8_t apart[64];
    vst4q_u8(apart, together);
    std::memcpy(found, apart, sizeof(apart));
#else
    for (int part = 0; part < DEPTH; part++) {
        int32_t together[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            const int token = part * LANES + lane;
            together[lane] = (uint16_t)lines[0][token] | (int32_t)((uint32_t)lines[1][token] << 16);
        }
        found[part] = load(together);
    }
#endif
}

// The word of one token from the codes of GROUP features, in 32 bits each, clipped as in store_line().
inline Int word(const Int codes[GROUP]) {
#if defined(HF_SPARSE_AVX512_VNNI)
    // In each 128 bits four codes of one feature follow those of another; the last step orders them by token.
    const __m512i low = _mm512_packs_epi32((__m512i)codes[0], (__m512i)codes[1]);
    const __m512i high = _mm512_packs_epi32((__m512i)codes[2], (__m512i)codes[3]);
    const __m512i order = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
    return (Int)_mm512_shuffle_epi8(_mm512_packus_epi16(low, high), order);
#elif defined(HF_SPARSE_AVX_VNNI)
    const __m256i low = _mm256_packs_epi32((__m256i)codes[0], (__m256i)codes[1]);
    const __m256i high = _mm256_packs_epi32((__m256i)codes[2], (__m256i)codes[3]);
    const __m256i order = _mm256_set_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400, 0x0f0b0703, 0x0e0a0602,
                                           0x0d090501, 0x0c080400);
    return (Int)_mm256_shuffle_epi8(_mm256_packus_epi16(low, high), order);
#elif defined(HF_SPARSE_AVX2)
    const __m256i low = _mm256_max_epi16((__m256i)codes[0], _mm256_setzero_si256());
    const __m256i high = _mm256_max_epi16((__m256i)codes[1], _mm256_setzero_si256());
    return (Int)_mm256_or_si256(low, _mm256_slli_epi32(high, 16));
#else
    const Int mask = every(GROUP == 4 ? 0xff : 0xffff);
    Int all = stored(codes[0]) & mask;
    for (int feature = 1; feature < GROUP; feature++)
        all |= (stored(codes[feature]) & mask) << (feature * 32 / GROUP);
    return all;
#endif
}

// The word of two halves.
inline Int halves(Int first, Int second) {
#if defined(HF_SPARSE_AVX512_VNNI)
    return (Int)_mm512_mask_blend_epi16(0xaaaaaaaa, (__m512i)first, (__m512i)(second << 16));
#elif defined(HF_SPARSE_AVX_VNNI) || defined(HF_SPARSE_AVX2)
    return (Int)_mm256_blend_epi16((__m256i)first, (__m256i)(second << 16), 0xaa);
#else
    return (first & every(0xffff)) | (second << 16);
#endif
}

}  // namespace
