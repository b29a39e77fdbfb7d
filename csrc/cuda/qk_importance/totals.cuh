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

PML_DEVICE void write_outputs(const Problem& p, int b, int kv) {
  const int group = heads_per_key_head(p), tiles = row_tiles(p);
  for (int n = thread_index(); n < p.size; n += THREADS) {
    float key_sum = 0.0f;
    for (int head = kv * group; head < (kv + 1) * group; head++) {
      const float* partial = p.partial + (int64_t(b) * p.heads + head) * tiles * 2 * p.size + n;
      p.q_out[(int64_t(b) * p.heads + head) * p.size + n] = sum_tiles(partial, tiles, 2 * p.size);
      key_sum += sum_tiles(partial + p.size, tiles, 2 * p.size);
    }
    p.k_out[(int64_t(b) * p.kv_heads + kv) * p.size + n] = key_sum;
  }
}

}  // namespace pymultiling
