// The outputs of one key head from its tiles' parts, by the block that finishes last, always in the same order.
#pragma once

#include "problem.cuh"

namespace pymultiling {

PML_DEVICE float sum_of_tiles(const float* partial, int tiles, int stride) {
  float sum = 0.0f;
  for (int tile = 0; tile < tiles; tile++) sum += load_shared_by_blocks(partial + int64_t(tile) * stride);
  return sum;
}

PML_DEVICE void add_up(const Problem& p, int b, int kv) {
  const int group = group_of(p), tiles = tiles_of_rows(p);
  for (int n = thread_index(); n < p.size; n += THREADS) {
    float of_keys = 0.0f;
    for (int head = kv * group; head < (kv + 1) * group; head++) {
      const float* partial = p.partial + (int64_t(b) * p.heads + head) * tiles * 2 * p.size + n;
      p.q_out[(int64_t(b) * p.heads + head) * p.size + n] = sum_of_tiles(partial, tiles, 2 * p.size);
      of_keys += sum_of_tiles(partial + p.size, tiles, 2 * p.size);
    }
    p.k_out[(int64_t(b) * p.kv_heads + kv) * p.size + n] = of_keys;
  }
}

}  // namespace pymultiling
