// How the kernel divides its work.
#pragma once

#include "intrinsics.cuh"
#include "problem.h"

namespace pymultiling {

constexpr int ROWS = 16;      // queries of a head at a time: the height of a tensor core product
constexpr int SETS = 2;       // query sets of ROWS queries that share a key head and its words
constexpr int WARPS = 8;      // of a block
constexpr int PAIRS = WARPS;  // rotated pairs at a time, one per warp
constexpr int THREADS = 32 * WARPS;
constexpr int GROUP = 32;  // keys of one step
constexpr int TILE = 64;   // keys in shared memory

// log2 A of a key that a query does not attend to. It is finite, because the difference of infinities is NaN.
constexpr float HIDDEN = -1e30f;
constexpr float LOWEST_VISIBLE = -1e29f;  // a query attends to keys with log2 A above this

// Returns where a row begins, as a single wide product.
PML_DEVICE int64_t row_offset(int row, uint32_t stride) { return int64_t(uint64_t(uint32_t(row)) * stride); }

PML_HOST_DEVICE int heads_per_key_head(const Problem& p) { return p.heads / p.kv_heads; }
PML_HOST_DEVICE int row_tiles(const Problem& p) { return (p.length + ROWS - 1) / ROWS; }
PML_HOST_DEVICE int items_per_head(const Problem& p) {
  return (row_tiles(p) * heads_per_key_head(p) + SETS - 1) / SETS;
}

// A key head of a document.
struct Keys {
  const Bfloat16 *k, *plain;
  const uint8_t* valid;
  int64_t table_offset;  // where the document's tables begin in problem.cos and problem.sin
};

PML_DEVICE Keys make_keys(const Problem& p, int b, int kv) {
  return {
      p.k + b * p.k_at.batch + kv * p.k_at.head, p.k_plain + b * p.k_plain_at.batch + kv * p.k_plain_at.head,
      p.valid + int64_t(b) * p.length, b * p.table_batch};
}

// ROWS queries of a head, and the groups of GROUP keys that they attend to.
struct QuerySet {
  int head, tile;   // tile is -1 if there are no queries
  int first, last;  // groups of keys from the item's first key on; first == last if all queries are padding
  int keys;         // number of keys from the first to the last that any query may attend to
  float* partial;   // the tile's part of the outputs: of query neurons, then of key neurons
};

}  // namespace pymultiling
