// The means over the keys, weighted by A, of k' and of the effects of zeroing key neurons. The shifts of t are computed
// from them (queries.cuh).
//
// softmax ignores the part of a change that all keys share, but this part costs float32 precision. So t is shifted by
// its mean. A shift only needs to be close to the mean, so the averaged values and the probabilities are rounded to
// bfloat16 for the tensor cores. The values are the keys' words (layout.cuh). An effect is the sum of three words, of
// which the first is sufficient.
#pragma once

#include "layout.cuh"
#include "sweep.cuh"

namespace pymultiling {

// A lane's part of the sums over the keys for PAIRS pairs in one query set: of A times each averaged value, and of A.
// write_means() divides them. Element x of lane 4 g + c is that of row g + 8 (x / 2) and pair 2 c + x % 2, as in the
// result of mma_16().
struct MeanSums {
  float values[MEANS][4], weights[4];
};

// A group's probabilities as the left factor of products over its keys, in the order of the steps.
struct Weights {
  uint32_t steps[4][2];  // rows g and g + 8
};

// Loads the probabilities of a group's keys for the lane's rows.
PML_DEVICE Weights load_weights(const float* a, int lane) {
  Weights weights;
#pragma unroll
  for (int step = 0; step < 4; step++) {
    float x[4];
    load_four(a + group_offset(step, lane), x);
    weights.steps[step][0] = pack(x[0], x[1]);
    weights.steps[step][1] = pack(x[2], x[3]);
  }
  return weights;
}

// Adds the products of the weights with the values `right` over a group's keys.
PML_DEVICE void add(float (&sum)[4], const Weights& left, const uint32_t (&right)[4]) {
#pragma unroll
  for (int step = 0; step < 4; step += 2)
    mma_16(
        sum, left.steps[step][0], left.steps[step][1], left.steps[step + 1][0], left.steps[step + 1][1], right[step],
        right[step + 1], sum);
}

// Loads a word's values in the pair's dimensions n and p for the keys of a group. Lane 4 g + c has keys 2 c and 2 c + 1
// of every step for pair g. A loaded word has one key's values in n and p, a returned word both keys' values in n, or
// in p.
PML_DEVICE void load_values(
    const uint32_t* words, int word, int group, int lane, uint32_t (&in_n)[4], uint32_t (&in_p)[4]) {
  const uint32_t* at =
      words + ((lane >> 2) * KEY_WORDS + word) * TILE + group * GROUP + (8 * (lane & 3) ^ swizzle(word));
  uint32_t first[4], second[4];
  load_four(at, first);
  load_four(at + 4, second);
#pragma unroll
  for (int step = 0; step < 4; step++) {
    in_n[step] = select_bytes(first[step], second[step], LOW_HALVES);
    in_p[step] = select_bytes(first[step], second[step], HIGH_HALVES);
  }
}

// Divides the sums by the sums of the weights and writes the means of PAIRS pairs.
PML_DEVICE void write_means(const MeanSums& sums, float* means, int lane) {
  const int g = lane >> 2, c = lane & 3;
#pragma unroll
  for (int x = 0; x < 4; x++) {
    const float scale = divide(1.0f, sums.weights[x]);
    float* at = means + (2 * c + (x & 1)) * MEANS * ROWS + g + 8 * (x >> 1);
#pragma unroll
    for (int mean = 0; mean < MEANS; mean++) at[mean * ROWS] = sums.values[mean][x] * scale;
  }
}

// Computes all means. Warps take PAIRS pairs at a time, in turn; the number of pairs is a multiple of PAIRS.
PML_DEVICE void compute_means(const Problem& problem, const Shared& shared, const Scratch& scratch, int b, int kv) {
  const int lane = thread_index() & 31;
  const uint32_t ones[4] = {TWO_ONES, TWO_ONES, TWO_ONES, TWO_ONES};
  for (int m = (thread_index() >> 5) * PAIRS; m < problem.size / 2; m += WARPS * PAIRS) {
    MeanSums sums[SETS] = {};
    for (int group = 0; group < shared.tiles * GROUPS; group++) {
      const uint32_t* words = key_block(problem, b, kv, shared.start / TILE + group / GROUPS, m / PAIRS);
      uint32_t values[MEANS][4];
      load_values(words, KEY, group % GROUPS, lane, values[KEY_N_MEAN], values[KEY_P_MEAN]);
      load_values(words, OF_N, group % GROUPS, lane, values[N_TO_N], values[N_TO_P]);
      load_values(words, OF_P, group % GROUPS, lane, values[P_TO_N], values[P_TO_P]);
#pragma unroll
      for (int s = 0; s < SETS; s++) {
        if (group < shared.sets[s].first || group >= shared.sets[s].last) continue;
        const Weights weights = load_weights(group_logs(scratch.logs, s, group) + GROUP_FLOATS, lane);
#pragma unroll
        for (int mean = 0; mean < MEANS; mean++) add(sums[s].values[mean], weights, values[mean]);
        add(sums[s].weights, weights, ones);
      }
    }
#pragma unroll
    for (int s = 0; s < SETS; s++) write_means(sums[s], pair_means(problem, scratch, s, m), lane);
  }
  sync_block();
}

}  // namespace pymultiling
