// Where things lie in a block's shared memory and in its scratch in global memory.
#pragma once

#include "problem.cuh"

namespace pymultiling {

// log2 A and A of a set's rows over GROUP keys lie as the sweep's accumulators want them: step s of 4 has keys 8 s to 8
// s + 7 of the group; lane 4 g + c has rows g, g, g + 8, g + 8 and of these keys numbers 2 c, 2 c + 1, 2 c, 2 c + 1.
constexpr int GROUP_FLOATS = GROUP * ROWS;
constexpr int GROUPS = TILE / GROUP;
constexpr int SET_FLOATS = GROUPS * 2 * GROUP_FLOATS;  // of a tile: log2 A, A of every group
constexpr int TILE_FLOATS = SETS * SET_FLOATS;

PML_DEVICE int in_group(int step, int lane) { return 4 * (32 * step + lane); }

// Of a group of the item's keys; log2 A, A follows after GROUP_FLOATS.
PML_DEVICE float* logs_of(float* scratch, int set, int group) {
  return scratch + int64_t(group / GROUPS) * TILE_FLOATS + set * SET_FLOATS + group % GROUPS * 2 * GROUP_FLOATS;
}

// What the sweep needs of a key, words of two bfloat16, for the pair's n and p: k'; what zeroing key neuron n and what
// zeroing p takes out, three words each; and two words of what rounding k' made it lack.
enum KeyWord { KEY = 0, OF_N = 1, OF_P = 4, LACKING = 7, KEY_WORDS = 9 };

// TILE keys of PAIRS pairs: [pair][word][key], and of every group and two pairs a bound (keys.cuh).
constexpr int BOUNDS = PAIRS * KEY_WORDS * TILE;
constexpr int KEY_BLOCK = BOUNDS + GROUPS * PAIRS / 2;

// Keys 0, 8, 16, 24 of a group lie side by side, then 1, 9, ...: a lane reads those of its four steps at once.
PML_DEVICE int place_of_key(int key) { return key / GROUP * GROUP + 4 * (key % 8) + key % GROUP / 8; }

// The words that a warp reads together are of four kinds: their keys' places differ so that shared memory's banks do.
PML_DEVICE int turned_place(int word) { return 8 * ((word + word / 8) & 3); }

// What the sweep needs of rows g and g + 8 for a pair, words of two bfloat16 as the lanes of a slot c take them.
struct alignas(16) QueryWords {
  uint32_t three[4][4][2];    // for three exponentials: of query p, of key p, of the ratio P, of x
  uint32_t four[4][2][2];     // for four: of key n, of query n; the others are the same
  float factor[2], moved[2];  // three do where factor times the keys' largest bound, plus moved, is at most 1
};

struct RowStatistics {
  float log2_sum, squares;
  int count;
};

// Behind a tile's words, for the lanes whose slots hold the queries' shift: words of ones, and of zeros.
constexpr int ONES = BOUNDS, ZEROS = BOUNDS + TILE, KEY_TILE = BOUNDS + 2 * TILE;

// Groups of keys; of the last perhaps only the first half.
struct Range {
  int first, count, half;  // half: that group, or -1

  PML_DEVICE bool has(int group) const { return uint32_t(group - first) < uint32_t(count); }
};

// Sums on their way to the lanes that finish them: of rows g, g + 8, m, b1 or b2, a site, by every lane; 8 more for the
// banks.
struct alignas(16) LaneSums {
  float of[2][3][4][40];
};

struct Shared {
  union {
    float logs[2][TILE_FLOATS];
    LaneSums sums[WARPS];
    float shares[THREADS][4];  // of the rows' changes (changes.cuh)
  };
  uint32_t words[2][KEY_TILE];
  float start_of_s[4];  // 1 / sqrt(2) (sweep.cuh)
  Set sets[SETS];
  Range swept[SETS];
  RowStatistics rows[SETS][ROWS];
  float found[WARPS][ROWS][3];    // by a warp in its part of the keys
  uint32_t wild[WARPS][SETS][2];  // lanes of a warp whose rows g, whose rows g + 8, go the careful way
  int moved[SETS][2];             // whether any neuron of the queries, of the keys, changes a row enough
  int start, tiles, ticket, last;
};

// Means of a row and pair: of k', and of what zeroing a key neuron takes out of its own and of its partner's dimension.
enum Mean { KEY_N_MEAN, KEY_P_MEAN, N_TO_N, N_TO_P, P_TO_N, P_TO_P, MEANS };

// The item's keys begin at a multiple of TILE and are at most window + 2 ROWS + TILE.
PML_BOTH int64_t tiles_of_keys(const Problem& p) { return (p.length + TILE - 1) / TILE; }

PML_BOTH int64_t most_tiles(const Problem& p) {
  const int64_t seen = p.window / TILE + 3;
  return seen < tiles_of_keys(p) ? seen : tiles_of_keys(p);
}

struct Scratch {
  float* logs;        // of all tiles
  float* means;       // (SETS, size / 2, MEANS, ROWS)
  QueryWords* query;  // (SETS, size / 2, ROWS / 2)
};

PML_BOTH int64_t scratch_of_block(const Problem& p) {
  return most_tiles(p) * TILE_FLOATS +
         SETS * ROWS * int64_t(p.size / 2) * (int(MEANS) + sizeof(QueryWords) / sizeof(float) / 2);
}

// Before the blocks' scratch lie the words of all keys: (batch, kv_heads, tiles, size / 2 / PAIRS, KEY_BLOCK).
PML_BOTH int64_t words_of_head(const Problem& p) { return tiles_of_keys(p) * (p.size / 2 / PAIRS) * KEY_BLOCK; }
PML_BOTH int64_t words_of_keys(const Problem& p) { return p.batch * p.kv_heads * words_of_head(p); }
PML_BOTH int64_t scratch_floats(const Problem& p, int blocks) {
  return words_of_keys(p) + blocks * scratch_of_block(p);
}

PML_DEVICE Scratch scratch_at(const Problem& p, int block) {
  float* logs = p.scratch + words_of_keys(p) + block * scratch_of_block(p);
  float* means = logs + most_tiles(p) * TILE_FLOATS;
  return {logs, means, reinterpret_cast<QueryWords*>(means + SETS * ROWS * int64_t(p.size / 2) * MEANS)};
}

// Of rows 0 and 8.
PML_DEVICE QueryWords* query_words(const Problem& p, const Scratch& scratch, int set, int m) {
  return scratch.query + (set * (p.size / 2) + m) * (ROWS / 2);
}

PML_DEVICE float* means_of(const Problem& p, const Scratch& scratch, int set, int m) {
  return scratch.means + (set * (p.size / 2) + m) * (MEANS * ROWS);
}

// Of a key head's tile the block of words of pairs PAIRS n, PAIRS n + 1, ...
PML_DEVICE uint32_t* key_block(const Problem& p, int b, int kv, int tile, int n) {
  const int64_t head = int64_t(b) * p.kv_heads + kv;
  return reinterpret_cast<uint32_t*>(p.scratch) + head * words_of_head(p) +
         (int64_t(tile) * (p.size / 2 / PAIRS) + n) * KEY_BLOCK;
}

PML_BOTH int counters_of(const Problem& p) { return 2 + 2 * p.batch * p.kv_heads; }

// Counters: tickets, blocks that are done, and of every key head the items that are done and the tiles whose words are
// there.
PML_DEVICE int* counter(const Problem& p, int b, int kv) { return p.counters + 2 + 2 * (b * p.kv_heads + kv); }

}  // namespace pymultiling
