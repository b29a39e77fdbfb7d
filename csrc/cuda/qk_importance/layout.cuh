// The layout of a block's shared memory and of its scratch in global memory.
#pragma once

#include "problem.cuh"

namespace pymultiling {

// log2 A and A of a query set's rows over GROUP keys have the layout of the sweep's accumulators. Step s of 4 contains
// keys 8 s to 8 s + 7 of the group. In a step, lane 4 g + c has rows g, g, g + 8, g + 8 and of the step's keys numbers
// 2 c, 2 c + 1, 2 c, 2 c + 1.
constexpr int GROUP_FLOATS = GROUP * ROWS;
constexpr int GROUPS = TILE / GROUP;
constexpr int SET_FLOATS = GROUPS * 2 * GROUP_FLOATS;  // of a tile: log2 A and A of every group
constexpr int TILE_FLOATS = SETS * SET_FLOATS;

PML_DEVICE int group_offset(int step, int lane) { return 4 * (32 * step + lane); }

// Returns log2 A of a group of the item's keys. A follows GROUP_FLOATS further.
PML_DEVICE float* group_logs(float* scratch, int set, int group) {
  return scratch + int64_t(group / GROUPS) * TILE_FLOATS + set * SET_FLOATS + group % GROUPS * 2 * GROUP_FLOATS;
}

// What the sweep needs of a key, as words of two bfloat16 for the pair's n and p: one word with k', three words each
// with the effects of zeroing key neurons n and p, and two words with the rounding error of k'.
enum KeyWord { KEY = 0, OF_N = 1, OF_P = 4, ROUNDING = 7, KEY_WORDS = 9 };

// The words of TILE keys and PAIRS pairs: [pair][word][key], then a bound for every group and every two pairs
// (keys.cuh).
constexpr int BOUNDS = PAIRS * KEY_WORDS * TILE;
constexpr int KEY_BLOCK = BOUNDS + GROUPS * PAIRS / 2;

// Returns a key's position in its tile. Keys 0, 8, 16, 24 of a group are adjacent, then keys 1, 9, ..., so a lane reads
// the keys of its four steps at once.
PML_DEVICE int key_position(int key) { return key / GROUP * GROUP + 4 * (key % 8) + key % GROUP / 8; }

// A warp reads words of four kinds together. Their keys' positions are swizzled by this, so that they are in different
// banks of shared memory.
PML_DEVICE int swizzle(int word) { return 8 * ((word + word / 8) & 3); }

// What the sweep needs of rows g and g + 8 for a pair, as words of two bfloat16 for the lanes of slot c.
struct alignas(16) QueryWords {
  uint32_t three[4][4][2];  // with three exponentials: for query p, key p, the ratio P, and x
  uint32_t four[4][2][2];   // with four: for key n and query n; the others are the same
  // Three exponentials are sufficient if factor times the keys' largest bound, plus shift_bound, is at most 1.
  float factor[2], shift_bound[2];
};

struct RowStatistics {
  float log2_sum, squares;
  int count;
};

// Words of ones and of zeros after a tile's words, for the lanes whose slots hold the queries' shift.
constexpr int ONES = BOUNDS, ZEROS = BOUNDS + TILE, KEY_TILE = BOUNDS + 2 * TILE;

// A range of groups of keys. Of the last group, possibly only the first half is needed.
struct Range {
  int first, count, half;  // half: the group of which only the first half is needed, or -1

  PML_DEVICE bool has(int group) const { return uint32_t(group - first) < uint32_t(count); }
};

// Sums on their way to the lanes that finish them: [rows g or g + 8][m, b1 or b2][site][lane], padded by 8 to avoid
// bank conflicts.
struct alignas(16) LaneSums {
  float values[2][3][4][40];
};

struct Shared {
  union {
    float logs[2][TILE_FLOATS];
    LaneSums sums[WARPS];
    float thread_changes[THREADS][4];  // changes of some rows, per thread (changes.cuh)
  };
  uint32_t words[2][KEY_TILE];
  float s_start[4];  // 1 / sqrt(2) (sweep.cuh)
  QuerySet sets[SETS];
  Range swept[SETS];
  RowStatistics rows[SETS][ROWS];
  float warp_results[WARPS][ROWS][3];  // a warp's results over its part of the keys
  uint32_t imprecise[WARPS][SETS][2];  // lanes of a warp whose rows g (or g + 8) need the slow path
  // Whether any query neuron, or any key neuron, changes a row enough for precise sums (changes.cuh).
  int large_change[SETS][2];
  int start, tiles, task, last;
};

// The means of a row and pair: of k', and of the effects of zeroing a key neuron on its own and on its partner's
// dimension.
enum Mean { KEY_N_MEAN, KEY_P_MEAN, N_TO_N, N_TO_P, P_TO_N, P_TO_P, MEANS };

// An item's keys begin at a multiple of TILE. There are at most window + 2 ROWS + TILE of them.
PML_HOST_DEVICE int64_t key_tiles(const Problem& problem) { return (problem.length + TILE - 1) / TILE; }

PML_HOST_DEVICE int64_t max_key_tiles(const Problem& problem) {
  const int64_t window_tiles = problem.window / TILE + 3;
  return window_tiles < key_tiles(problem) ? window_tiles : key_tiles(problem);
}

struct Scratch {
  float* logs;        // of all tiles
  float* means;       // (SETS, size / 2, MEANS, ROWS)
  QueryWords* query;  // (SETS, size / 2, ROWS / 2)
};

PML_HOST_DEVICE int64_t scratch_per_block(const Problem& problem) {
  return max_key_tiles(problem) * TILE_FLOATS +
         SETS * ROWS * int64_t(problem.size / 2) * (int(MEANS) + sizeof(QueryWords) / sizeof(float) / 2);
}

// The words of all keys precede the blocks' scratch: (batch, kv_heads, tiles, size / 2 / PAIRS, KEY_BLOCK).
PML_HOST_DEVICE int64_t key_words_per_head(const Problem& problem) {
  return key_tiles(problem) * (problem.size / 2 / PAIRS) * KEY_BLOCK;
}
PML_HOST_DEVICE int64_t key_words_total(const Problem& problem) {
  return problem.batch * problem.kv_heads * key_words_per_head(problem);
}
PML_HOST_DEVICE int64_t scratch_floats(const Problem& problem, int blocks) {
  return key_words_total(problem) + blocks * scratch_per_block(problem);
}

PML_DEVICE Scratch block_scratch(const Problem& problem, int block) {
  float* logs = problem.scratch + key_words_total(problem) + block * scratch_per_block(problem);
  float* means = logs + max_key_tiles(problem) * TILE_FLOATS;
  return {logs, means, reinterpret_cast<QueryWords*>(means + SETS * ROWS * int64_t(problem.size / 2) * MEANS)};
}

// Returns the words of rows 0 and 8. Those of the next rows follow.
PML_DEVICE QueryWords* query_words(const Problem& problem, const Scratch& scratch, int set, int m) {
  return scratch.query + (set * (problem.size / 2) + m) * (ROWS / 2);
}

PML_DEVICE float* pair_means(const Problem& problem, const Scratch& scratch, int set, int m) {
  return scratch.means + (set * (problem.size / 2) + m) * (MEANS * ROWS);
}

// Returns the words of a key head's tile for the PAIRS pairs from PAIRS * part on.
PML_DEVICE uint32_t* key_block(const Problem& problem, int b, int kv, int tile, int part) {
  const int64_t head = int64_t(b) * problem.kv_heads + kv;
  return reinterpret_cast<uint32_t*>(problem.scratch) + head * key_words_per_head(problem) +
         (int64_t(tile) * (problem.size / 2 / PAIRS) + part) * KEY_BLOCK;
}

PML_HOST_DEVICE int counter_count(const Problem& problem) { return 2 + 2 * problem.batch * problem.kv_heads; }

// The counters are: the next task, the blocks that are done, and for every key head the items that are done and the
// tiles whose words are written.
PML_DEVICE int* head_counters(const Problem& problem, int b, int kv) {
  return problem.counters + 2 + 2 * (b * problem.kv_heads + kv);
}

}  // namespace pymultiling
