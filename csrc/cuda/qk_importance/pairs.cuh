// Pairs of dimensions that turn together, and what zeroing a neuron takes out of its pair.
#pragma once

#include "problem.cuh"

namespace pymultiling {

PML_DEVICE float low_half(uint32_t x) { return from_bits(x << 16); }
PML_DEVICE float high_half(uint32_t x) { return from_bits(x & 0xffff0000u); }

// Pair m is dimensions n, p. What does not turn makes pairs of neighbours, with cosine 1 and sine 0.
struct Pair {
  int n, p;
  bool turns;
};

PML_DEVICE Pair pair_at(const Problem& problem, int m) {
  const bool turns = 2 * m < problem.turned;
  if (turns && !problem.interleaved) return {m, m + problem.turned / 2, true};
  return {2 * m, 2 * m + 1, turns};
}

// Where a row has pairs m and m + 1, m even: two values at `first`, two `apart` further on; and which bytes of them
// make words of two bfloat16, n and p of a pair. The rotated dimensions are a multiple of 4, and rows aligned to as
// many bytes.
struct Couple {
  int first, apart;
  uint32_t one, other;
  bool turns;
};

PML_DEVICE Couple couple_at(const Problem& problem, int m) {
  const bool turns = 2 * m < problem.turned;
  if (turns && !problem.interleaved) return {m, problem.turned / 2, 0x5410u, 0x7632u, true};
  return {2 * m, 2, 0x3210u, 0x7654u, turns};
}

PML_DEVICE void load_couple(const Half* row, const Couple& at, uint32_t (&words)[2]) {
  row += at.first;
  const uint32_t first = *reinterpret_cast<const uint32_t*>(row);
  const uint32_t second = *reinterpret_cast<const uint32_t*>(row + at.apart);
  words[0] = bytes_of(first, second, at.one);
  words[1] = bytes_of(first, second, at.other);
}

// Cosine and sine of a pair's two dimensions at one position.
struct Turn {
  float cos_n, cos_p, sin_n, sin_p;
};

PML_DEVICE float table_value(const Problem& problem, const void* table, int64_t at) {
  if (problem.wide_tables) return static_cast<const float*>(table)[at];
  return from_bits(uint32_t(static_cast<const Half*>(table)[at]) << 16);
}

PML_DEVICE Turn load_turn(const Problem& problem, int64_t table, int position, int m) {
  const Pair pair = pair_at(problem, m);
  if (!pair.turns) return {1.0f, 1.0f, 0.0f, 0.0f};
  const int64_t at = table + int64_t(position) * problem.turned;
  return {
      table_value(problem, problem.cos, at + pair.n), table_value(problem, problem.cos, at + pair.p),
      table_value(problem, problem.sin, at + pair.n), table_value(problem, problem.sin, at + pair.p)};
}

// The same of two neighbouring pairs.
PML_DEVICE void load_turns(
    const Problem& problem, int64_t table, int position, int m, const Couple& at, Turn (&turn)[2]) {
  if (problem.wide_tables) {
    turn[0] = load_turn(problem, table, position, m);
    turn[1] = load_turn(problem, table, position, m + 1);
    return;
  }
  uint32_t cos[2] = {0x3f803f80u, 0x3f803f80u}, sin[2] = {0u, 0u};  // ones, zeros
  if (at.turns) {
    const int64_t row = table + int64_t(position) * problem.turned;
    load_couple(static_cast<const Half*>(problem.cos) + row, at, cos);
    load_couple(static_cast<const Half*>(problem.sin) + row, at, sin);
  }
#pragma unroll
  for (int i = 0; i < 2; i++) turn[i] = {low_half(cos[i]), high_half(cos[i]), low_half(sin[i]), high_half(sin[i])};
}

// Zeroing n adds n_to_n to dimension n and n_to_p to dimension p, times -factor: minus what it takes out.
struct Removed {
  float n_to_n, n_to_p, p_to_n, p_to_p;
};

PML_DEVICE Removed removed(float n, float p, const Turn& turn, float factor) {
  n *= -factor;
  p *= -factor;
  return {n * turn.cos_n, n * turn.sin_p, -p * turn.sin_n, p * turn.cos_p};
}

// a and b as sums of three words of two bfloat16 each, all of a float32's digits.
PML_DEVICE void split(float a, float b, uint32_t (&words)[3]) {
#pragma unroll
  for (int i = 0; i < 3; i++) {
    words[i] = pack(a, b);
    a -= low_half(words[i]);
    b -= high_half(words[i]);
  }
}

PML_DEVICE void split(float a, float b, uint32_t (&words)[2]) {
  words[0] = pack(a, b);
  words[1] = pack(a - low_half(words[0]), b - high_half(words[0]));
}

// x as the sum of two bfloat16 in one word.
PML_DEVICE uint32_t in_two(float x) {
  const float first = low_half(pack(x, 0.0f));
  return pack(first, x - first);
}

PML_DEVICE float of_two(uint32_t word) { return low_half(word) + high_half(word); }

PML_DEVICE float half_value(const Half* at) { return from_bits(uint32_t(*at) << 16); }

}  // namespace pymultiling
