// qk_importance: how much each query and key neuron changes the attention probabilities, in one launch.
//
//     importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S),   A' = softmax(S + y_n)   (arXiv 2402.18815, eq. 9-11)
//
// With t = log2(e) y, shifted so that m is small, and v = A (2^t - 1),
//
//     m = sum_j v,  b0 = sum_j A^2,  b1 = sum_j A v,  b2 = sum_j v^2:
//     sum_j (A' - A)^2 = (b2 - 2 m b1 + m^2 b0) / (1 + m)^2
//
// Blocks take task numbers from a counter. The first tasks are tiles of keys: they write the keys' factors of t, for
// all queries of all query heads (keys.cuh). The other tasks are items: SETS tiles of ROWS queries that share a key
// head. For an item a block computes, once, the probabilities into its scratch in global memory (softmax.cuh), the
// means of t (means.cuh), and the queries' factors of t (queries.cuh). Then it sweeps over the keys, PAIRS rotated
// pairs at a time, one per warp (sweep.cuh). The words and probabilities of the next tile are copied to shared memory
// while the previous tile is swept.
//
// An item waits until its keys' words are written. This cannot deadlock: the words are tasks with smaller numbers,
// which wait for nothing. The block that finishes the last item of a key head adds up the head's rows (totals.cuh).
#pragma once

#include "changes.cuh"
#include "means.cuh"
#include "totals.cuh"

namespace pymultiling {

// What all warps of an item have in common.
struct Item {
  int b, kv;
  Keys keys;
};

// Returns whether the rows of a query set have so few keys that there is no sweep.
PML_DEVICE bool has_few_keys(const QuerySet& set) { return set.keys <= FEW_KEYS; }

// Sets up an item. The items of a head follow each other, so its keys stay in the L2. A head's last rows have the most
// keys and come first.
PML_DEVICE Item start_item(const Problem& problem, Shared& shared, int number) {
  const int head = number / items_per_head(problem), index_in_head = number % items_per_head(problem);
  const int b = head / problem.kv_heads, kv = head % problem.kv_heads, group = heads_per_key_head(problem);
  const Item item = {b, kv, make_keys(problem, b, kv)};
  int from = problem.length, to = 0;  // the same in every thread
  QuerySet sets[SETS];
#pragma unroll
  for (int s = 0; s < SETS; s++) {
    const int entry = index_in_head * SETS + s, top = (row_tiles(problem) - 1 - entry / group) * ROWS;
    bool has_queries = false;
    for (int row = top; row >= 0 && row < top + ROWS && row < problem.length; row++)
      has_queries |= item.keys.valid[row] != 0;
    const int first = top - problem.window + 1 > 0 ? top - problem.window + 1 : 0;
    const int last = has_queries ? (top + ROWS < problem.length ? top + ROWS : problem.length) : first;
    const int row_head = kv * group + entry % group, tile = top < 0 ? -1 : top / ROWS;
    float* partial =
        problem.partial + ((int64_t(b) * problem.heads + row_head) * row_tiles(problem) + tile) * 2 * problem.size;
    sets[s] = {row_head, tile, first, last, 0, partial};
    if (has_queries && first < from) from = first;
    if (has_queries && last > to) to = last;
  }
  from = from / TILE * TILE;
  if (thread_index() == 0) {
    shared.start = from;
    shared.tiles = to > from ? (to - from + TILE - 1) / TILE : 0;
  }
  if (thread_index() < SETS) {
    QuerySet set = sets[0];
#pragma unroll
    for (int s = 1; s < SETS; s++)
      if (thread_index() == s) set = sets[s];
    if (set.first == set.last) {
      set.first = set.last = 0;
    } else {
      set.keys = set.last - from - (set.first - from) / GROUP * GROUP;
      set.first = (set.first - from) / GROUP;
      set.last = (set.last - from + GROUP - 1) / GROUP;
    }
    shared.sets[thread_index()] = set;
    const int last_key_in_group = (set.keys - 1) % GROUP;
    shared.swept[thread_index()] = {
        set.first, has_few_keys(set) ? 0 : set.last - set.first, last_key_in_group < GROUP / 2 ? set.last - 1 : -1};
    shared.large_change[thread_index()][0] = shared.large_change[thread_index()][1] = 0;
  }
  sync_block();
  return item;
}

template <int FIRST, int LAST>
PML_DEVICE void copy_rounds_async(char* to, const char* from) {
  if constexpr (FIRST < LAST) {
    copy_async<FIRST>(to, from);
    copy_rounds_async<FIRST + 16 * THREADS, LAST>(to, from);
  }
}

// Starts to copy COUNT words to shared memory, with all threads.
template <int COUNT>
PML_DEVICE void copy_words_async(void* shared, const void* global) {
  constexpr int ROUND = 16 * THREADS;
  char* to = static_cast<char*>(shared) + 16 * thread_index();
  const char* from = static_cast<const char*>(global) + 16 * thread_index();
  copy_rounds_async<0, 4 * COUNT / ROUND * ROUND>(to, from);
  if (16 * thread_index() < 4 * COUNT % ROUND) copy_async<4 * COUNT / ROUND * ROUND>(to, from);
}

// Computes the importance of PAIRS pairs from m on.
PML_DEVICE void sweep_pairs(const Problem& problem, Shared& shared, const Scratch& scratch, const Item& item, int m) {
  const int lane = thread_index() & 31, warp = thread_index() >> 5;
  Sums sums[SETS] = {};
  QuerySide query[SETS];
  bool use_three[SETS];
  const uint32_t* blocks = key_block(problem, item.b, item.kv, shared.start / TILE, m / PAIRS);
  const float largest = largest_bound(problem, blocks, shared.tiles * GROUPS, warp, lane);
#pragma unroll
  for (int s = 0; s < SETS; s++) {
    const QueryWords* rows = query_words(problem, scratch, s, m + warp);
    query[s] = load_query_side(rows, lane);
    use_three[s] = load_three_limit(rows, lane).allows(largest);
    if (!use_three[s]) use_four_exponentials(query[s], rows, lane);
  }
  const KeyOffsets offsets = key_offsets(warp, lane);
  const float* logs = scratch.logs;
  copy_words_async<TILE_FLOATS>(shared.logs[0], logs);
  copy_words_async<BOUNDS>(shared.words[0], blocks);
  for (int tile = 0; tile < shared.tiles; tile++) {
    const int buffer = tile & 1;
    wait_for_copies();
    sync_block();
    blocks += problem.size / 2 / PAIRS * KEY_BLOCK;
    logs += TILE_FLOATS;
    if (tile + 1 < shared.tiles) {
      copy_words_async<TILE_FLOATS>(shared.logs[buffer ^ 1], logs);
      copy_words_async<BOUNDS>(shared.words[buffer ^ 1], blocks);
    }
#pragma unroll 1
    for (int group = 0; group < GROUPS; group++) {
      const uint32_t* words = shared.words[buffer] + group * GROUP;
      const float* log_a = shared.logs[buffer] + group * 2 * GROUP_FLOATS + group_offset(0, lane);
#pragma unroll
      for (int s = 0; s < SETS; s++) {
        const int group_index = tile * GROUPS + group;
        if (!shared.swept[s].has(group_index)) continue;
        const bool half = group_index == shared.swept[s].half;
        if (use_three[s])
          sweep<true>(
              sums[s], query[s], load_key_side<true>(words, offsets), log_a + s * SET_FLOATS, shared.s_start, half);
        else
          sweep<false>(
              sums[s], query[s], load_key_side<false>(words, offsets), log_a + s * SET_FLOATS, shared.s_start, half);
      }
    }
  }
  sync_block();
  bool imprecise = false;
#pragma unroll
  for (int s = 0; s < SETS; s++) {
    if (lane < 2) shared.imprecise[warp][s][lane] = 0u;
    if (shared.swept[s].count > 0) imprecise |= finish_pair(problem, shared, sums[s], s, m + warp);
  }
  sync_block();  // the memory of the sums is free again
  if (!imprecise) return;
#pragma unroll 1
  for (int x = 0; x < 2 * SETS; x++) add_imprecise_rows(problem, shared, scratch, item.keys, x / 2, x % 2, m + warp);
}

PML_DEVICE void run_item(const Problem& problem, Shared& shared, const Scratch& scratch, int number) {
  const Item item = start_item(problem, shared, number);
  softmax(problem, shared, scratch, item.keys, item.b);
  normalize(shared, scratch);
  if (thread_index() == 0) wait_until(head_counters(problem, item.b, item.kv) + 1, int(key_tiles(problem)));
  sync_block();
  compute_means(problem, shared, scratch, item.b, item.kv);
  make_query_words(problem, shared, scratch, item.b);
  sync_block();
  bool sweeps = false;
#pragma unroll
  for (int s = 0; s < SETS; s++) sweeps |= !has_few_keys(shared.sets[s]);
  if (sweeps)
    for (int m = 0; m < problem.size / 2; m += PAIRS) sweep_pairs(problem, shared, scratch, item, m);
  sync_block();
#pragma unroll 1
  for (int s = 0; s < SETS; s++) {
    const bool precise = !has_few_keys(shared.sets[s]) && shared.large_change[s][0] && shared.large_change[s][1];
    if (shared.sets[s].tile >= 0 && !precise) finish_slowly(problem, shared, scratch, item.keys, s);
  }
  sync_block();
  int* counts = head_counters(problem, item.b, item.kv);
  if (thread_index() == 0) shared.last = increment(counts) == items_per_head(problem) - 1;
  sync_block();
  if (shared.last) {
    if (thread_index() == 0) counts[0] = counts[1] = 0;
    write_outputs(problem, item.b, item.kv);
  }
}

PML_DEVICE void run_key_tile(const Problem& problem, int number) {
  const int tiles = int(key_tiles(problem)), head = number / tiles, b = head / problem.kv_heads,
            kv = head % problem.kv_heads;
  make_key_words(problem, b, kv, number % tiles);
  sync_block();
  if (thread_index() == 0) increment(head_counters(problem, b, kv) + 1);
}

PML_DEVICE void run_block(const Problem& problem, Shared& shared, int block) {
  const Scratch scratch = block_scratch(problem, block);
  const int heads = problem.batch * problem.kv_heads, tiles = heads * int(key_tiles(problem)),
            total = tiles + heads * items_per_head(problem);
  if (thread_index() < 2 * TILE) {
    const int buffer = thread_index() / TILE, position = thread_index() % TILE;
    shared.words[buffer][ONES + position] = TWO_ONES;
    shared.words[buffer][ZEROS + position] = 0u;
  }
  if (thread_index() < 4) shared.s_start[thread_index()] = ROOT_HALF;
  while (true) {
    sync_block();
    if (thread_index() == 0) shared.task = increment(problem.counters);
    sync_block();
    const int number = shared.task;
    if (number >= total) break;
    if (number < tiles)
      run_key_tile(problem, number);
    else
      run_item(problem, shared, scratch, number - tiles);
  }
  if (thread_index() == 0 && increment(problem.counters + 1) == block_count() - 1)
    problem.counters[0] = problem.counters[1] = 0;
}

}  // namespace pymultiling
