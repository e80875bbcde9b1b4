// Masks of one bit a weight, applied to weights of 2, 4 or 8 bytes. The first weight has the highest bit of a byte.

#include <cstdint>
#include <cstring>

#if defined(__GNUC__) && defined(__x86_64__) && defined(__GLIBC__)
// The loader picks the version for the processor.
#define FOR_EVERY_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EVERY_CPU
#endif
#define INLINED inline __attribute__((always_inline))

namespace {

// As many weights as 32 bytes hold, with the bit of each.
template <typename Word>
struct Lanes;
template <>
struct Lanes<uint16_t> {
  typedef uint16_t Vector __attribute__((vector_size(32)));
  static constexpr Vector kBits = {1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11, 1 << 10, 1 << 9, 1 << 8,
                                   1 << 7,  1 << 6,  1 << 5,  1 << 4,  1 << 3,  1 << 2,  1 << 1, 1};
  static INLINED uint16_t bits_at(const uint8_t* bits, int64_t at) { return bits[at / 8] << 8 | bits[at / 8 + 1]; }
};
template <>
struct Lanes<uint32_t> {
  typedef uint32_t Vector __attribute__((vector_size(32)));
  static constexpr Vector kBits = {1 << 7, 1 << 6, 1 << 5, 1 << 4, 1 << 3, 1 << 2, 1 << 1, 1};
  static INLINED uint32_t bits_at(const uint8_t* bits, int64_t at) { return bits[at / 8]; }
};
template <>
struct Lanes<uint64_t> {
  typedef uint64_t Vector __attribute__((vector_size(32)));
  static constexpr Vector kBits = {1 << 3, 1 << 2, 1 << 1, 1};
  static INLINED uint64_t bits_at(const uint8_t* bits, int64_t at) { return bits[at / 8] >> (4 - at % 8); }
};

// Clears removed weights, and writes them to `aside` if asked.
template <typename Word, bool kAside>
INLINED void split(void* all, void* others, const uint8_t* bits, int64_t count) {
  using Vector = typename Lanes<Word>::Vector;
  constexpr int64_t kCount = sizeof(Vector) / sizeof(Word);
  Word* values = static_cast<Word*>(all);
  Word* aside = static_cast<Word*>(others);
  const int64_t whole = count / kCount * kCount;
  for (int64_t at = 0; at < whole; at += kCount) {
    const Vector own = (Lanes<Word>::kBits & Lanes<Word>::bits_at(bits, at));
    const Vector kept = (Vector)(own == Lanes<Word>::kBits);
    Vector now;
    std::memcpy(&now, values + at, sizeof now);
    if (kAside) {
      const Vector other = now & ~kept;
      std::memcpy(aside + at, &other, sizeof other);
    }
    now &= kept;
    std::memcpy(values + at, &now, sizeof now);
  }
  for (int64_t i = whole; i < count; ++i) {
    const Word kept = bits[i / 8] >> (7 - i % 8) & 1 ? Word(~Word(0)) : Word(0);
    if (kAside) aside[i] = values[i] & Word(~kept);
    values[i] &= kept;
  }
}

template <bool kAside>
INLINED void split_by_size(void* values, void* aside, const uint8_t* bits, int64_t count, int64_t size) {
  switch (size) {
    case 2: split<uint16_t, kAside>(values, aside, bits, count); break;
    case 4: split<uint32_t, kAside>(values, aside, bits, count); break;
    case 8: split<uint64_t, kAside>(values, aside, bits, count); break;
  }
}

}  // namespace

extern "C" {

// Sets removed weights to zero; `size` is that of one weight in bytes.
FOR_EVERY_CPU void clear_removed(void* values, const uint8_t* bits, int64_t count, int64_t size) {
  split_by_size<false>(values, nullptr, bits, count, size);
}

// Moves removed weights into `aside`; all other entries of it become zero.
FOR_EVERY_CPU void move_removed(void* values, void* aside, const uint8_t* bits, int64_t count, int64_t size) {
  split_by_size<true>(values, aside, bits, count, size);
}
}
