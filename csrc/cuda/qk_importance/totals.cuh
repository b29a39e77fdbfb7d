// The outputs of one key head, summed over the parts of its tiles. The block that finishes last computes them, always
// in the same order.
#pragma once

#include "problem.cuh"

namespace pymultiling {

// Returns the sum of one value of each tile. `stride` is the distance between tiles.
PML_DEVICE float sum_tiles(const float* partial, int tiles, int stride) {
  float sum = 0.0f;
  for (int tile = 0; tile < tiles; tile++) sum += load_from_l2(partial + int64_t(tile) * stride);
  return sum;
}

PML_DEVICE void write_outputs(const Problem& problem, int b, int kv) {
  const int group = heads_per_key_head(problem), tiles = row_tiles(problem);
  for (int n = thread_index(); n < problem.size; n += THREADS) {
    float key_sum = 0.0f;
    for (int head = kv * group; head < (kv + 1) * group; head++) {
      const float* partial = problem.partial + (int64_t(b) * problem.heads + head) * tiles * 2 * problem.size + n;
      problem.q_out[(int64_t(b) * problem.heads + head) * problem.size + n] =
          sum_tiles(partial, tiles, 2 * problem.size);
      key_sum += sum_tiles(partial + problem.size, tiles, 2 * problem.size);
    }
    problem.k_out[(int64_t(b) * problem.kv_heads + kv) * problem.size + n] = key_sum;
  }
}

}  // namespace pymultiling
