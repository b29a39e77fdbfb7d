// The keys' side of the sweep's products: words that all rows of all heads share, made once a call.
#pragma once

#include "pairs.cuh"
#include "sweep.cuh"

namespace pymultiling {

// Three exponentials do while no change of a score, times log2(e), nor shift exceeds MOST_CHANGE, so that P and what it
// multiplies stay in float32's range; and while x stays under LARGEST_X. The bound is of the largest query with the
// largest key where every rounding is the worst: of random ones the largest x is a quarter of it, where y^3 / 6, which
// is left out, is 1e-5 of a power, and their root mean square a hundredth.
constexpr float MOST_CHANGE = 64.0f;
constexpr float LARGEST_X = 1.0f / 4;
constexpr float X_PER_CHANGE = MOST_CHANGE / LARGEST_X;

// What q' or k' lacks of `removed` dimensions n, p, rounded as it is: both neurons' parts, less what is there.
struct Lacking {
  float n, p;
};

PML_DEVICE Lacking lacking(const Removed& x, float n, float p, float factor) {
  return {fused(factor, n, x.n_to_n + x.p_to_n), fused(factor, p, x.n_to_p + x.p_to_p)};
}

PML_DEVICE float larger(float a, float b) { return fmaxf(a, b); }

PML_DEVICE void write_key_word(uint32_t* pair, int word, int place, uint32_t x) {
  pair[word * TILE + (place ^ turned_place(word))] = x;
}

// The words of one key and pair; returns a bound of the changes and of x that it makes, per unit of a query
// (queries.cuh).
PML_DEVICE float write_key_words(
    float factor, uint32_t key, uint32_t plain, const Turn& turn, uint32_t* words, int place) {
  const Removed x = removed(low_half(plain), high_half(plain), turn, factor);
  const Lacking rest = lacking(x, low_half(key), high_half(key), factor);
  uint32_t of_n[3], of_p[3], lack[2];
  split(x.n_to_n, x.n_to_p, of_n);
  split(x.p_to_n, x.p_to_p, of_p);
  split(rest.n * (LN_2 * ROOT_HALF), rest.p * (LN_2 * ROOT_HALF), lack);
  write_key_word(words, KEY, place, key);
#pragma unroll
  for (int i = 0; i < 3; i++) {
    write_key_word(words, OF_N + i, place, of_n[i]);
    write_key_word(words, OF_P + i, place, of_p[i]);
  }
  write_key_word(words, LACKING, place, lack[0]);
  write_key_word(words, LACKING + 1, place, lack[1]);
  const float change = larger(larger(fabsf(x.n_to_n), fabsf(x.n_to_p)), larger(fabsf(x.p_to_n), fabsf(x.p_to_p)));
  return larger(change, X_PER_CHANGE * larger(fabsf(rest.n), fabsf(rest.p)));
}

// One tile of a key head, all pairs. Lanes are a group's keys; warps take its couples of pairs in turn.
PML_DEVICE void make_key_words(const Problem& problem, int b, int kv, int tile) {
  const Keys keys = keys_of(problem, b, kv);
  const int lane = thread_index() & 31;
  for (int task = thread_index() >> 5; task < GROUPS * problem.size / 4; task += WARPS) {
    const int group = task % GROUPS, m = task / GROUPS * 2, key_place = group * GROUP + lane,
              j = tile * TILE + key_place, place = place_of_key(key_place);
    const Couple at = couple_at(problem, m);
    uint32_t key[2] = {0u, 0u}, plain[2] = {0u, 0u};
    Turn turns[2] = {};
    if (j < problem.length && keys.valid[j]) {  // what padding holds must not reach a sum, NaN would
      load_couple(keys.k + row_offset(j, problem.k_at.row), at, key);
      load_couple(keys.plain + row_offset(j, problem.k_plain_at.row), at, plain);
      load_turns(problem, keys.table, j, m, at, turns);
    }
    uint32_t* words = key_block(problem, b, kv, tile, m / PAIRS);
    float bound = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      uint32_t* pair = words + (m % PAIRS + i) * KEY_WORDS * TILE;
      bound = larger(bound, write_key_words(problem.scale, key[i], plain[i], turns[i], pair, place));
    }
#pragma unroll
    for (int mask = 1; mask < 32; mask *= 2) bound = larger(bound, from_lane_xor(bound, mask));
    if (lane == 0) words[BOUNDS + (group * PAIRS + m % PAIRS) / 2] = to_bits(bound);
  }
}

// Over the groups of an item's keys, of a warp's pair.
PML_DEVICE float largest_bound(const Problem& problem, const uint32_t* blocks, int groups, int pair, int lane) {
  float bound = 0.0f;
#pragma unroll 1
  for (int group = lane; group < groups; group += 32)
    bound = larger(
        bound, from_bits(
                   blocks
                       [int64_t(group / GROUPS) * (problem.size / 2 / PAIRS) * KEY_BLOCK + BOUNDS +
                        (group % GROUPS * PAIRS + pair) / 2]));
  return largest_of_lanes(bound);
}

}  // namespace pymultiling
