// How the kernel divides its work.
#pragma once

#include "intrinsics.cuh"
#include "problem.h"

namespace pymultiling {

constexpr int ROWS = 16;      // queries of a head at a time: the height of the tensor cores' product
constexpr int SETS = 2;       // of ROWS queries that share a key head, and so what is made of its keys
constexpr int WARPS = 8;      // of a block
constexpr int PAIRS = WARPS;  // rotated pairs at a time, one a warp
constexpr int THREADS = 32 * WARPS;
constexpr int GROUP = 32;  // keys of one step
constexpr int TILE = 64;   // keys in shared memory

// log2 A of a key that a query does not see. Finite: infinities make NaN of each other.
constexpr float HIDDEN = -1e30f;
constexpr float SEEN = -1e29f;  // over which a key is seen

// Where a row begins, in one wide product.
PML_DEVICE int64_t row_offset(int row, uint32_t stride) { return int64_t(uint64_t(uint32_t(row)) * stride); }

PML_BOTH int group_of(const Problem& p) { return p.heads / p.kv_heads; }
PML_BOTH int tiles_of_rows(const Problem& p) { return (p.length + ROWS - 1) / ROWS; }
PML_BOTH int items_of_head(const Problem& p) { return (tiles_of_rows(p) * group_of(p) + SETS - 1) / SETS; }

// A key head of a document.
struct Keys {
  const Half *k, *plain;
  const uint8_t* valid;
  int64_t table;  // of the document
};

PML_DEVICE Keys keys_of(const Problem& p, int b, int kv) {
  return {
      p.k + b * p.k_at.batch + kv * p.k_at.head, p.k_plain + b * p.k_plain_at.batch + kv * p.k_plain_at.head,
      p.valid + int64_t(b) * p.length, b * p.table_batch};
}

// ROWS queries of a head, and the groups of GROUP keys that they see.
struct Set {
  int head, tile;   // tile -1: no queries
  int first, last;  // groups of keys, counted from the item's first key; first == last: all padding
  int keys;         // from the first to the last that any query may see
  float* partial;   // the tile's part of the outputs: of query neurons, then of key neurons
};

}  // namespace pymultiling
