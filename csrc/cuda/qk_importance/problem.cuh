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

// Words of two bfloat16, as pack() makes them: two ones, and the two sign bits.
constexpr uint32_t TWO_ONES = 0x3f803f80u, TWO_SIGNS = 0x80008000u;
// Selectors for select_bytes(a, b, ...): the low halves of a and b, their high halves, a itself, b itself.
constexpr uint32_t LOW_HALVES = 0x5410u, HIGH_HALVES = 0x7632u, ALL_OF_A = 0x3210u, ALL_OF_B = 0x7654u;

// Returns where a row begins, as a single wide product.
PML_DEVICE int64_t row_offset(int row, uint32_t stride) { return int64_t(uint64_t(uint32_t(row)) * stride); }

PML_HOST_DEVICE int heads_per_key_head(const Problem& problem) { return problem.heads / problem.kv_heads; }
PML_HOST_DEVICE int row_tiles(const Problem& problem) { return (problem.length + ROWS - 1) / ROWS; }
PML_HOST_DEVICE int items_per_head(const Problem& problem) {
  return (row_tiles(problem) * heads_per_key_head(problem) + SETS - 1) / SETS;
}

// A key head of a document.
struct Keys {
  const Bfloat16 *k, *plain;
  const uint8_t* valid;
  int64_t table_offset;  // where the document's tables begin in problem.cos and problem.sin
};

PML_DEVICE Keys make_keys(const Problem& problem, int b, int kv) {
  return {
      problem.k + b * problem.k_at.batch + kv * problem.k_at.head,
      problem.k_plain + b * problem.k_plain_at.batch + kv * problem.k_plain_at.head,
      problem.valid + int64_t(b) * problem.length, b * problem.table_batch};
}

// ROWS queries of a head, and the groups of GROUP keys that they attend to.
struct QuerySet {
  int head, tile;   // tile is -1 if there are no queries
  int first, last;  // groups of keys from the item's first key on; first == last if all queries are padding
  int keys;         // number of keys from the first to the last that any query may attend to
  float* partial;   // the tile's part of the outputs: of query neurons, then of key neurons
};

}  // namespace pymultiling
