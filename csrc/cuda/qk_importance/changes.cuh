// From a pair's sums to its neurons' importance in a tile of rows; rows that lost their digits go the careful way.
#pragma once

#include "careful.cuh"

namespace pymultiling {

// 2^t is 2^-23 off, and a neuron's importance about 2^-22 / |t|, less the root of the number of keys and rows.
constexpr int FEW_KEYS = 16;                  // over which nothing evens out: from logarithms at once
constexpr float SMALLEST_CHANGE = 1.0f / 16;  // of a tile's largest: below it p - A loses digits in all of its neurons
constexpr float LARGEST_SQUARES = 1e30f;      // of b2: from its products nothing overflows
constexpr float LARGEST_CANCELLATION = 100.0f;  // costs float32 two of its seven digits

PML_DEVICE float* partial_at(const Problem& p, const Set& set, int m, int site) {
  const Pair pair = pair_at(p, m);
  return set.partial + ((site & 2 ? p.size : 0) + (site & 1 ? pair.p : pair.n));
}

// Of four lanes' shares the sums: lane 4 g + c gets those of rows g and g + 8 at site c.
PML_DEVICE void gather(LaneSums& lanes, const Sums& sums, int lane, float (&found)[2][3]) {
#pragma unroll
  for (int h = 0; h < 2; h++)
#pragma unroll
    for (int x = 0; x < 3; x++)
#pragma unroll
      for (int site = 0; site < SITES; site++) lanes.of[h][x][site][lane] = sums.of[h][site][x];
  meet_warp();
#pragma unroll
  for (int h = 0; h < 2; h++)
#pragma unroll
    for (int x = 0; x < 3; x++) {
      float shares[4];
      load_four(&lanes.of[h][x][lane & 3][lane & ~3], shares);
      found[h][x] = (shares[0] + shares[1]) + (shares[2] + shares[3]);
    }
  meet_warp();
}

// The warp's pair m in set s: the rows whose sums can be trusted. Whether there are others, which go to `wild`.
PML_DEVICE bool finish_pair(const Problem& problem, Shared& shared, const Sums& sums, int s, int m) {
  const int lane = thread_index() & 31, g = lane >> 2, site = lane & 3;
  float found[2][3], change[2];
  gather(shared.sums[thread_index() >> 5], sums, lane, found);
  bool moved = false;
  uint32_t wild[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const RowStatistics row = shared.rows[s][g + 8 * h];
    const float mean = found[h][0], b2 = found[h][2], whole = 1.0f + mean;
    change[h] = squared_change(mean, row.squares, found[h][1], b2);
    const bool counts = row.count > 1;  // with one key A' = A = 1
    const bool fine = b2 < LARGEST_SQUARES && mean > -0.5f && LARGEST_CANCELLATION * change[h] * whole * whole >= b2;
    moved |= counts && b2 >= SMALLEST_CHANGE * SMALLEST_CHANGE * row.squares;
    wild[h] = lanes_where(counts && !fine);
    if (!counts || (wild[h] >> 4 * g & 15) != 0) change[h] = 0.0f;
  }
  const uint32_t lanes = lanes_where(moved);
  float total = change[0] + change[1];
#pragma unroll
  for (int mask = 4; mask < 32; mask *= 2) total += from_lane_xor(total, mask);
  if (g == 0) {
    *partial_at(problem, shared.sets[s], m, site) = total;
    if (lanes & (site < 2 ? 0x33333333u : 0xccccccccu)) shared.moved[s][site >> 1] = 1;
    if (site < 2) shared.wild[thread_index() >> 5][s][site] = site == 0 ? wild[0] : wild[1];
  }
  return (wild[0] | wild[1]) != 0;
}

// Adds the rows that finish_pair() left out. The lanes of a warp share a row.
PML_DEVICE void add_wild(
    const Problem& problem, const Shared& shared, const Scratch& scratch, const Keys& keys, int s, int h, int m) {
  const int lane = thread_index() & 31;
  for (uint32_t lanes = shared.wild[thread_index() >> 5][s][h]; lanes != 0;) {
    const int g = first_lane(lanes) / 4;
    lanes &= ~(15u << 4 * g);
    float changes[SITES];
    careful_changes<true>(problem, shared, scratch, keys, s, g + 8 * h, m, changes);
#pragma unroll
    for (int site = 0; site < SITES; site++)
      if (lane == site) *partial_at(problem, shared.sets[s], m, site) += changes[site];
  }
}

// All neurons of a set. A thread has a pair and some of the rows.
PML_DEVICE void finish_carefully(
    const Problem& problem, Shared& shared, const Scratch& scratch, const Keys& keys, int s) {
  const int pairs = problem.size / 2, shares = THREADS / pairs, m = thread_index() % pairs,
            share = thread_index() / pairs;
  float total[SITES] = {};
  if (share < shares)
#pragma unroll 1
    for (int row = share; row < ROWS; row += shares) {
      if (shared.rows[s][row].count <= 1) continue;
      float changes[SITES];
      careful_changes<false>(problem, shared, scratch, keys, s, row, m, changes);
#pragma unroll
      for (int site = 0; site < SITES; site++) total[site] += changes[site];
    }
  store_four(shared.shares[thread_index()], total[0], total[1], total[2], total[3]);
  meet();
  for (int x = thread_index(); x < SITES * pairs; x += THREADS) {
    float sum = 0.0f;
    for (int y = 0; y < shares; y++) sum += shared.shares[y * pairs + x / SITES][x % SITES];
    *partial_at(problem, shared.sets[s], x / SITES, x % SITES) = sum;
  }
  meet();
}

}  // namespace pymultiling
