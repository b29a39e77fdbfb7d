// Pairs of dimensions that rotate together, and the effect of zeroing a neuron on its pair.
#pragma once

#include "problem.cuh"

namespace pymultiling {

PML_DEVICE float low_value(uint32_t x) { return from_bits(x << 16); }
PML_DEVICE float high_value(uint32_t x) { return from_bits(x & 0xffff0000u); }

// Pair m consists of dimensions n and p. Dimensions that do not rotate form pairs of neighbours, with cosine 1 and sine
// 0.
struct Pair {
  int n, p;
  bool rotates;
};

PML_DEVICE Pair locate_pair(const Problem& problem, int m) {
  const bool rotates = 2 * m < problem.rotary_size;
  if (rotates && !problem.interleaved) return {m, m + problem.rotary_size / 2, true};
  return {2 * m, 2 * m + 1, rotates};
}

// Where a row has pairs m and m + 1, m even: two values at `first`, and two more `distance` further. The selectors pick
// the bytes that form a pair's word of two bfloat16, n and p. The number of rotated dimensions is a multiple of 4, so
// the loads of two values are aligned.
struct TwoPairs {
  int first, distance;
  uint32_t first_selector, second_selector;
  bool rotates;
};

PML_DEVICE TwoPairs locate_two_pairs(const Problem& problem, int m) {
  const bool rotates = 2 * m < problem.rotary_size;
  if (rotates && !problem.interleaved) return {m, problem.rotary_size / 2, LOW_HALVES, HIGH_HALVES, true};
  return {2 * m, 2, ALL_OF_A, ALL_OF_B, rotates};
}

PML_DEVICE void load_two_pairs(const Bfloat16* row, const TwoPairs& at, uint32_t (&words)[2]) {
  row += at.first;
  const uint32_t first = *reinterpret_cast<const uint32_t*>(row);
  const uint32_t second = *reinterpret_cast<const uint32_t*>(row + at.distance);
  words[0] = select_bytes(first, second, at.first_selector);
  words[1] = select_bytes(first, second, at.second_selector);
}

// Cosine and sine of a pair's two dimensions at one position.
struct Rotation {
  float cos_n, cos_p, sin_n, sin_p;
};

// Returns the element `at` of a table of cosines or sines.
PML_DEVICE float table_value(const Problem& problem, const void* table, int64_t at) {
  if (problem.wide_tables) return static_cast<const float*>(table)[at];
  return from_bits(uint32_t(static_cast<const Bfloat16*>(table)[at]) << 16);
}

// Loads a pair's rotation at a position. `table_offset` is where the document's table begins in problem.cos and
// problem.sin.
PML_DEVICE Rotation load_rotation(const Problem& problem, int64_t table_offset, int position, int m) {
  const Pair pair = locate_pair(problem, m);
  if (!pair.rotates) return {1.0f, 1.0f, 0.0f, 0.0f};
  const int64_t at = table_offset + int64_t(position) * problem.rotary_size;
  return {
      table_value(problem, problem.cos, at + pair.n), table_value(problem, problem.cos, at + pair.p),
      table_value(problem, problem.sin, at + pair.n), table_value(problem, problem.sin, at + pair.p)};
}

// Loads the rotations of two neighbouring pairs.
PML_DEVICE void load_rotations(
    const Problem& problem, int64_t table_offset, int position, int m, const TwoPairs& at, Rotation (&rotation)[2]) {
  if (problem.wide_tables) {
    rotation[0] = load_rotation(problem, table_offset, position, m);
    rotation[1] = load_rotation(problem, table_offset, position, m + 1);
    return;
  }
  uint32_t cos[2] = {TWO_ONES, TWO_ONES}, sin[2] = {0u, 0u};
  if (at.rotates) {
    const int64_t row = table_offset + int64_t(position) * problem.rotary_size;
    load_two_pairs(static_cast<const Bfloat16*>(problem.cos) + row, at, cos);
    load_two_pairs(static_cast<const Bfloat16*>(problem.sin) + row, at, sin);
  }
#pragma unroll
  for (int i = 0; i < 2; i++)
    rotation[i] = {low_value(cos[i]), high_value(cos[i]), low_value(sin[i]), high_value(sin[i])};
}

// The effects of zeroing neurons n and p on dimensions n and p of the rotated vector, times the factor. Zeroing n adds
// n_to_n to dimension n and n_to_p to dimension p; zeroing p adds p_to_n and p_to_p.
struct ZeroingEffect {
  float n_to_n, n_to_p, p_to_n, p_to_p;
};

PML_DEVICE ZeroingEffect zeroing_effect(float value_n, float value_p, const Rotation& rotation, float factor) {
  value_n *= -factor;
  value_p *= -factor;
  return {value_n * rotation.cos_n, value_n * rotation.sin_p, -value_p * rotation.sin_n, value_p * rotation.cos_p};
}

// Splits a and b into sums of three words of two bfloat16 each, which hold all digits of a float32.
PML_DEVICE void split(float a, float b, uint32_t (&words)[3]) {
#pragma unroll
  for (int i = 0; i < 3; i++) {
    words[i] = pack(a, b);
    a -= low_value(words[i]);
    b -= high_value(words[i]);
  }
}

// Splits a and b into sums of two words, which hold about 16 of the 24 digits of a float32.
PML_DEVICE void split(float a, float b, uint32_t (&words)[2]) {
  words[0] = pack(a, b);
  words[1] = pack(a - low_value(words[0]), b - high_value(words[0]));
}

// Packs x into one word, as the sum of two bfloat16.
PML_DEVICE uint32_t pack_sum(float x) {
  const float first = low_value(pack(x, 0.0f));
  return pack(first, x - first);
}

PML_DEVICE float unpack_sum(uint32_t word) { return low_value(word) + high_value(word); }

PML_DEVICE float bfloat16_value(const Bfloat16* at) { return from_bits(uint32_t(*at) << 16); }

}  // namespace pymultiling
