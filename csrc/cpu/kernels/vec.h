// Vectors of LANES floats, based on the compilers' vector extensions: 4, 8 or 16 lanes, depending on the instruction
// set.
//
// A file that includes this is compiled once per instruction set, with PYMULTILING_INSTRUCTION_SET = portable, avx2 or
// avx512. It must not instantiate anything from the standard library: the linker keeps only one copy of an inline
// function, and that copy could contain instructions that the machine does not support.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t half_vec __attribute__((vector_size(2 * LANES)));
typedef int8_t byte_vec __attribute__((vector_size(LANES)));

#define PYMULTILING_INLINE static inline __attribute__((always_inline))

template <typename To, typename From>
PYMULTILING_INLINE To bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

// Returns x in all lanes. x - 0 keeps -0.0, x + 0 would not.
PYMULTILING_INLINE vec splat(float x) { return x - vec{}; }

PYMULTILING_INLINE vec load(const float* p) {
  vec x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}

PYMULTILING_INLINE void store(float* p, vec x) { __builtin_memcpy(p, &x, sizeof x); }

// bfloat16 is the upper half of a float.
PYMULTILING_INLINE vec load(const uint16_t* p) {
  half_vec x;
  __builtin_memcpy(&x, p, sizeof x);
  return bits<vec>(__builtin_convertvector(x, uvec) << 16);
}

// Rounds to nearest, ties to even. NaN stays a quiet NaN.
PYMULTILING_INLINE void store(uint16_t* p, vec x) {
  uvec u = bits<uvec>(x);
  uvec rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  half_vec y = __builtin_convertvector(x == x ? rounded : (u >> 16 | 0x40), half_vec);
  __builtin_memcpy(p, &y, sizeof y);
}

// Like load and store, but for the first `count` elements if there are fewer than LANES. The other lanes are zero.
template <typename T>
PYMULTILING_INLINE vec load_some(const T* p, int64_t count) {
  if (count >= LANES) return load(p);
  T x[LANES] = {};
  __builtin_memcpy(x, p, sizeof(T) * count);
  return load(x);
}

template <typename T>
PYMULTILING_INLINE void store_some(T* p, vec x, int64_t count) {
  if (count >= LANES) return store(p, x);
  T y[LANES];
  store(y, x);
  __builtin_memcpy(p, y, sizeof(T) * count);
}

PYMULTILING_INLINE vec max(vec a, vec b) { return a > b ? a : b; }
PYMULTILING_INLINE vec sqrt(vec x) {
#if defined(__AVX512F__)
  return (vec)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (vec)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < LANES; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
// Returns 1 / x for normal x, with error 2e-7: faster than a division where the machine estimates it.
PYMULTILING_INLINE vec reciprocal(vec x) {
#if defined(__AVX512F__)
  const vec y = (vec)_mm512_rcp14_ps((__m512)x);
  return y * (2.0f - x * y);
#elif defined(__AVX2__)
  const vec y = (vec)_mm256_rcp_ps((__m256)x);
  return y * (2.0f - x * y);
#else
  return 1.0f / x;
#endif
}
PYMULTILING_INLINE vec abs(vec x) { return bits<vec>(bits<ivec>(x) & 0x7fffffff); }
// Returns whether any lane of `mask`, the result of comparisons, is true.
PYMULTILING_INLINE bool any(ivec mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  int combined = 0;
  for (int i = 0; i < LANES; i++) combined |= mask[i];
  return combined != 0;
#endif
}
// Returns a number whose bit i is 1 where lane i of `mask` is true. `mask` is the result of comparisons, so each lane
// is 0 (false) or -1 (true).
PYMULTILING_INLINE uint32_t lane_bits(ivec mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask);
#else
  uint32_t lanes = 0;
  for (int i = 0; i < LANES; i++) lanes |= (mask[i] & 1u) << i;
  return lanes;
#endif
}
PYMULTILING_INLINE float sum(vec x) {
  float total = 0;
  for (int i = 0; i < LANES; i++) total += x[i];
  return total;
}
PYMULTILING_INLINE float max_lane(vec x) {
  float maximum = x[0];
  for (int i = 1; i < LANES; i++) maximum = x[i] > maximum ? x[i] : maximum;
  return maximum;
}

template <int... I>
struct Indices {};
template <int N, int... I>
struct FirstIndices : FirstIndices<N - 1, N - 1, I...> {};
template <int... I>
struct FirstIndices<0, I...> {
  typedef Indices<I...> type;
};

// Returns x with its lanes moved up by STEP; the lowest lanes are zero.
template <int STEP, int... I>
PYMULTILING_INLINE vec shift_lanes_up(vec x, Indices<I...>) {
  return __builtin_shufflevector(vec{}, x, (LANES - STEP + I)...);
}

// Returns x[0] + ... + x[i] in lane i.
template <int STEP = 1>
PYMULTILING_INLINE vec running_sums(vec x) {
  x += shift_lanes_up<STEP>(x, typename FirstIndices<LANES>::type{});
  if constexpr (2 * STEP < LANES) return running_sums<2 * STEP>(x);
  return x;
}

// Rounds to the nearest integer, ties to even. The portable implementation needs |x| < 2^22.
PYMULTILING_INLINE vec nearest(vec x) {
#if defined(__AVX512F__)
  return (vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (vec)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const vec shift = splat(0x1.8p23f);  // near 1.5 2^23 the floats are the integers
  return (x + shift) - shift;
#endif
}

// Returns x * 2^n for integral n. Without AVX-512 n is clamped to [-126, 127].
PYMULTILING_INLINE vec times_power_of_two(vec x, vec n) {
#if defined(__AVX512F__)
  return (vec)_mm512_scalef_ps((__m512)x, (__m512)n);
#else
  n = n < -126.0f ? splat(-126.0f) : n;
  n = n > 127.0f ? splat(127.0f) : n;
  return x * bits<vec>((__builtin_convertvector(n, ivec) + 127) << 23);
#endif
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
