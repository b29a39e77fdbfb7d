// The keys' factors of the sweep's products. All rows of all query heads share them, so they are computed once per
// call.
#pragma once

#include "pairs.cuh"
#include "sweep.cuh"

namespace pymultiling {

// Three exponentials are sufficient if no change of an attention score, times log2(e), and no shift exceeds
// LARGEST_CHANGE, so that P and its products stay in float32's range, and if x stays below LARGEST_X. The bound assumes
// the largest query, the largest key and the worst rounding everywhere. For random inputs the largest x is a quarter of
// the bound, where the omitted y^3 / 6 is 1e-5 of a power, and the root mean square of x is a hundredth.
constexpr float LARGEST_CHANGE = 64.0f;
constexpr float LARGEST_X = 1.0f / 4;
constexpr float X_PER_CHANGE = LARGEST_CHANGE / LARGEST_X;

// The rounding errors of q' or k' in dimensions n and p: the rounded value minus the sum of both neurons' parts, times
// the factor.
struct RoundingError {
  float n, p;
};

PML_DEVICE RoundingError rounding_error(const ZeroingEffect& effect, float n, float p, float factor) {
  return {
      multiply_add(factor, n, effect.n_to_n + effect.p_to_n), multiply_add(factor, p, effect.n_to_p + effect.p_to_p)};
}

PML_DEVICE float larger(float a, float b) { return fmaxf(a, b); }

// Writes a word of the pair at a key's position, which is swizzled for the kind of word.
PML_DEVICE void write_key_word(uint32_t* pair, int word, int position, uint32_t x) {
  pair[word * TILE + (position ^ swizzle(word))] = x;
}

// Writes the words of one key and pair. Returns a bound of the changes and of x that they cause, per unit of a query
// (queries.cuh).
PML_DEVICE float write_key_words(
    float factor, uint32_t key, uint32_t plain, const Rotation& rotation, uint32_t* words, int position) {
  const ZeroingEffect effect = zeroing_effect(low_value(plain), high_value(plain), rotation, factor);
  const RoundingError error = rounding_error(effect, low_value(key), high_value(key), factor);
  uint32_t of_n[3], of_p[3], error_words[2];
  split(effect.n_to_n, effect.n_to_p, of_n);
  split(effect.p_to_n, effect.p_to_p, of_p);
  split(error.n * (LN_2 * ROOT_HALF), error.p * (LN_2 * ROOT_HALF), error_words);
  write_key_word(words, KEY, position, key);
#pragma unroll
  for (int i = 0; i < 3; i++) {
    write_key_word(words, OF_N + i, position, of_n[i]);
    write_key_word(words, OF_P + i, position, of_p[i]);
  }
  write_key_word(words, ROUNDING, position, error_words[0]);
  write_key_word(words, ROUNDING + 1, position, error_words[1]);
  const float change =
      larger(larger(fabsf(effect.n_to_n), fabsf(effect.n_to_p)), larger(fabsf(effect.p_to_n), fabsf(effect.p_to_p)));
  return larger(change, X_PER_CHANGE * larger(fabsf(error.n), fabsf(error.p)));
}

// Writes the words of one tile of a key head for all pairs. Lanes correspond to the keys of a group; the warps divide
// pairs of pairs among them.
PML_DEVICE void make_key_words(const Problem& problem, int b, int kv, int tile) {
  const Keys keys = make_keys(problem, b, kv);
  const int lane = thread_index() & 31;
  for (int task = thread_index() >> 5; task < GROUPS * problem.size / 4; task += WARPS) {
    const int group = task % GROUPS, m = task / GROUPS * 2, key_in_tile = group * GROUP + lane,
              j = tile * TILE + key_in_tile, position = key_position(key_in_tile);
    const TwoPairs at = locate_two_pairs(problem, m);
    uint32_t key[2] = {0u, 0u}, plain[2] = {0u, 0u};
    Rotation rotations[2] = {};
    if (j < problem.length && keys.valid[j]) {  // padding must not reach a sum, because it could be NaN
      load_two_pairs(keys.k + row_offset(j, problem.k_at.row), at, key);
      load_two_pairs(keys.plain + row_offset(j, problem.k_plain_at.row), at, plain);
      load_rotations(problem, keys.table_offset, j, m, at, rotations);
    }
    uint32_t* words = key_block(problem, b, kv, tile, m / PAIRS);
    float bound = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      uint32_t* pair = words + (m % PAIRS + i) * KEY_WORDS * TILE;
      bound = larger(bound, write_key_words(problem.scale, key[i], plain[i], rotations[i], pair, position));
    }
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) bound = larger(bound, shuffle_xor(bound, mask));
    if (lane == 0) words[BOUNDS + (group * PAIRS + m % PAIRS) / 2] = to_bits(bound);
  }
}

// Returns the largest bound over the groups of an item's keys, for a warp's pair.
PML_DEVICE float largest_bound(const Problem& problem, const uint32_t* blocks, int groups, int pair, int lane) {
  float bound = 0.0f;
#pragma unroll 1
  for (int group = lane; group < groups; group += 32)
    bound = larger(
        bound, from_bits(
                   blocks
                       [int64_t(group / GROUPS) * (problem.size / 2 / PAIRS) * KEY_BLOCK + BOUNDS +
                        (group % GROUPS * PAIRS + pair) / 2]));
  return max_over_lanes(bound);
}

}  // namespace pymultiling
