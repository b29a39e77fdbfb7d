// qk_importance: how far each query and key neuron moves the attention probabilities, in one launch.
//
//     importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S),   A' = softmax(S + y_n)   (arXiv 2402.18815, eq. 9-11)
//
// With t = log2(e) y, shifted so that m is small, and v = A (2^t - 1),
//
//     m = sum_j v,  b0 = sum_j A^2,  b1 = sum_j A v,  b2 = sum_j v^2:
//     sum_j (A' - A)^2 = (b2 - 2 m b1 + m^2 b0) / (1 + m)^2
//
// Blocks take numbers from a counter. The first are for tiles of keys: what the keys of a head bring to t, for all
// queries of all its heads (keys.cuh). The others are for items: SETS tiles of ROWS queries that share a key head. A
// block makes their probabilities once, into its scratch in global memory (softmax.cuh), the means of t (means.cuh),
// and the queries' side of t (queries.cuh). Then PAIRS rotated pairs at a time, one a warp, it sweeps over the keys
// (sweep.cuh), whose words and probabilities travel to shared memory while the tile before is swept. An item waits
// until its keys' words are there: blocks with smaller numbers, which wait for nobody, are making them. Whoever
// finishes a key head's last item adds up its rows (totals.cuh).
#pragma once

#include "changes.cuh"
#include "means.cuh"
#include "totals.cuh"

namespace pymultiling {

// What is the same for all warps of an item.
struct Item {
  int b, kv;
  Keys keys;
};

// A set whose rows see so few keys takes no sweep.
PML_DEVICE bool few(const Set& set) { return set.keys <= FEW_KEYS; }

// Heads follow each other, whose keys then stay in the L2; a head's rows far down see the most keys and come first.
PML_DEVICE Item start_item(const Problem& p, Shared& shared, int number) {
  const int head = number / items_of_head(p), place = number % items_of_head(p);
  const int b = head / p.kv_heads, kv = head % p.kv_heads, group = group_of(p);
  const Item item = {b, kv, keys_of(p, b, kv)};
  int from = p.length, to = 0;  // the same in every thread
  Set sets[SETS];
#pragma unroll
  for (int s = 0; s < SETS; s++) {
    const int entry = place * SETS + s, top = (tiles_of_rows(p) - 1 - entry / group) * ROWS;
    bool any = false;
    for (int row = top; row >= 0 && row < top + ROWS && row < p.length; row++) any |= item.keys.valid[row] != 0;
    const int first = top - p.window + 1 > 0 ? top - p.window + 1 : 0;
    const int last = any ? (top + ROWS < p.length ? top + ROWS : p.length) : first;
    const int row_head = kv * group + entry % group, tile = top < 0 ? -1 : top / ROWS;
    float* partial = p.partial + ((int64_t(b) * p.heads + row_head) * tiles_of_rows(p) + tile) * 2 * p.size;
    sets[s] = {row_head, tile, first, last, 0, partial};
    if (any && first < from) from = first;
    if (any && last > to) to = last;
  }
  from = from / TILE * TILE;
  if (thread_index() == 0) {
    shared.start = from;
    shared.tiles = to > from ? (to - from + TILE - 1) / TILE : 0;
  }
  if (thread_index() < SETS) {
    Set set = sets[0];
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
    const int rest = (set.keys - 1) % GROUP;
    shared.swept[thread_index()] = {
        set.first, few(set) ? 0 : set.last - set.first, rest < GROUP / 2 ? set.last - 1 : -1};
    shared.moved[thread_index()][0] = shared.moved[thread_index()][1] = 0;
  }
  meet();
  return item;
}

template <int FIRST, int LAST>
PML_DEVICE void send_rounds(char* to, const char* from) {
  if constexpr (FIRST < LAST) {
    send<FIRST>(to, from);
    send_rounds<FIRST + 16 * THREADS, LAST>(to, from);
  }
}

// `COUNT` words, by all threads.
template <int COUNT>
PML_DEVICE void send_all(void* shared, const void* global) {
  constexpr int ROUND = 16 * THREADS;
  char* to = static_cast<char*>(shared) + 16 * thread_index();
  const char* from = static_cast<const char*>(global) + 16 * thread_index();
  send_rounds<0, 4 * COUNT / ROUND * ROUND>(to, from);
  if (16 * thread_index() < 4 * COUNT % ROUND) send<4 * COUNT / ROUND * ROUND>(to, from);
}

// PAIRS pairs from m on.
PML_DEVICE void sweep_pairs(const Problem& p, Shared& shared, const Scratch& scratch, const Item& item, int m) {
  const int lane = thread_index() & 31, warp = thread_index() >> 5;
  Sums sums[SETS] = {};
  QuerySide query[SETS];
  bool three[SETS];
  const uint32_t* blocks = key_block(p, item.b, item.kv, shared.start / TILE, m / PAIRS);
  const float largest = largest_bound(p, blocks, shared.tiles * GROUPS, warp, lane);
#pragma unroll
  for (int s = 0; s < SETS; s++) {
    const QueryWords* rows = query_words(p, scratch, s, m + warp);
    query[s] = load_query_side(rows, lane);
    three[s] = find_reach(rows, lane).covers(largest);
    if (!three[s]) change_to_four(query[s], rows, lane);
  }
  const KeyOffsets offsets = key_offsets(warp, lane);
  const float* logs = scratch.logs;
  send_all<TILE_FLOATS>(shared.logs[0], logs);
  send_all<BOUNDS>(shared.words[0], blocks);
  for (int tile = 0; tile < shared.tiles; tile++) {
    const int now = tile & 1;
    arrived();
    meet();
    blocks += p.size / 2 / PAIRS * KEY_BLOCK;
    logs += TILE_FLOATS;
    if (tile + 1 < shared.tiles) {
      send_all<TILE_FLOATS>(shared.logs[now ^ 1], logs);
      send_all<BOUNDS>(shared.words[now ^ 1], blocks);
    }
#pragma unroll 1
    for (int group = 0; group < GROUPS; group++) {
      const uint32_t* words = shared.words[now] + group * GROUP;
      const float* log_a = shared.logs[now] + group * 2 * GROUP_FLOATS + in_group(0, lane);
#pragma unroll
      for (int s = 0; s < SETS; s++) {
        const int at = tile * GROUPS + group;
        if (!shared.swept[s].has(at)) continue;
        const bool half = at == shared.swept[s].half;
        if (three[s])
          sweep<true>(
              sums[s], query[s], load_key_side<true>(words, offsets), log_a + s * SET_FLOATS, shared.start_of_s, half);
        else
          sweep<false>(
              sums[s], query[s], load_key_side<false>(words, offsets), log_a + s * SET_FLOATS, shared.start_of_s, half);
      }
    }
  }
  meet();
  bool wild = false;
#pragma unroll
  for (int s = 0; s < SETS; s++) {
    if (lane < 2) shared.wild[warp][s][lane] = 0u;
    if (shared.swept[s].count > 0) wild |= finish_pair(p, shared, sums[s], s, m + warp);
  }
  meet();  // what the sums lay in is free
  if (!wild) return;
#pragma unroll 1
  for (int x = 0; x < 2 * SETS; x++) add_wild(p, shared, scratch, item.keys, x / 2, x % 2, m + warp);
}

PML_DEVICE void do_item(const Problem& p, Shared& shared, const Scratch& scratch, int number) {
  const Item item = start_item(p, shared, number);
  softmax(p, shared, scratch, item.keys, item.b);
  normalize(shared, scratch);
  if (thread_index() == 0) wait_for(counter(p, item.b, item.kv) + 1, int(tiles_of_keys(p)));
  meet();
  make_means(p, shared, scratch, item.b, item.kv);
  make_query_words(p, shared, scratch, item.b);
  meet();
  bool sweeps = false;
#pragma unroll
  for (int s = 0; s < SETS; s++) sweeps |= !few(shared.sets[s]);
  if (sweeps)
    for (int m = 0; m < p.size / 2; m += PAIRS) sweep_pairs(p, shared, scratch, item, m);
  meet();
#pragma unroll 1
  for (int s = 0; s < SETS; s++) {
    const bool digits = !few(shared.sets[s]) && shared.moved[s][0] && shared.moved[s][1];
    if (shared.sets[s].tile >= 0 && !digits) finish_carefully(p, shared, scratch, item.keys, s);
  }
  meet();
  int* counts = counter(p, item.b, item.kv);
  if (thread_index() == 0) shared.last = count_up(counts) == items_of_head(p) - 1;
  meet();
  if (shared.last) {
    if (thread_index() == 0) counts[0] = counts[1] = 0;
    add_up(p, item.b, item.kv);
  }
}

PML_DEVICE void do_tile_of_keys(const Problem& p, int number) {
  const int tiles = int(tiles_of_keys(p)), head = number / tiles, b = head / p.kv_heads, kv = head % p.kv_heads;
  make_key_words(p, b, kv, number % tiles);
  meet();
  if (thread_index() == 0) count_up(counter(p, b, kv) + 1);
}

PML_DEVICE void run_block(const Problem& p, Shared& shared, int block) {
  const Scratch scratch = scratch_at(p, block);
  const int heads = p.batch * p.kv_heads, tiles = heads * int(tiles_of_keys(p)), all = tiles + heads * items_of_head(p);
  if (thread_index() < 2 * TILE) {
    const int buffer = thread_index() / TILE, place = thread_index() % TILE;
    shared.words[buffer][ONES + place] = 0x3f803f80u;
    shared.words[buffer][ZEROS + place] = 0u;
  }
  if (thread_index() < 4) shared.start_of_s[thread_index()] = ROOT_HALF;
  while (true) {
    meet();
    if (thread_index() == 0) shared.ticket = count_up(p.counters);
    meet();
    const int number = shared.ticket;
    if (number >= all) break;
    if (number < tiles)
      do_tile_of_keys(p, number);
    else
      do_item(p, shared, scratch, number - tiles);
  }
  if (thread_index() == 0 && count_up(p.counters + 1) == block_count() - 1) p.counters[0] = p.counters[1] = 0;
}

}  // namespace pymultiling
