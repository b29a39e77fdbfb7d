// From a pair's sums to its neurons' importance in a tile of rows. Rows whose sums lost precision are computed again in
// the slow path (slow_path.cuh).
#pragma once

#include "slow_path.cuh"

namespace pymultiling {

// 2^t has a relative error of 2^-23, and a neuron's importance one of about 2^-22 / |t|, divided by the root of the
// number of keys and rows.

// With at most this many keys errors do not average out: such rows take the slow path at once.
constexpr int FEW_KEYS = 16;
// Relative to A. If no neuron of a tile of rows changes a row by this much, p - A lost precision for all of its
// neurons.
constexpr float SMALLEST_CHANGE = 1.0f / 16;
constexpr float LARGEST_SQUARES = 1e30f;  // of b2; its products do not overflow
// Largest ratio of b2 to b2 - 2 m b1 + m^2 b0. At this ratio float32 loses two of its seven decimal digits.
constexpr float LARGEST_CANCELLATION = 100.0f;

// Returns where the importance of a site of pair m in the query set's tile of rows is written.
PML_DEVICE float* partial_at(const Problem& problem, const QuerySet& set, int m, int site) {
  const Pair pair = locate_pair(problem, m);
  return set.partial + ((site & 2 ? problem.size : 0) + (site & 1 ? pair.p : pair.n));
}

// Adds the sums of the four lanes that share rows. Sets row_sums of lane 4 g + c to m, b1 and b2 of rows g and g + 8 at
// site c.
PML_DEVICE void gather(LaneSums& lanes, const Sums& sums, int lane, float (&row_sums)[2][3]) {
#pragma unroll
  for (int h = 0; h < 2; h++)
#pragma unroll
    for (int x = 0; x < 3; x++)
#pragma unroll
      for (int site = 0; site < SITES; site++) lanes.values[h][x][site][lane] = sums.values[h][site][x];
  sync_warp();
#pragma unroll
  for (int h = 0; h < 2; h++)
#pragma unroll
    for (int x = 0; x < 3; x++) {
      float lane_sums[4];
      load_four(&lanes.values[h][x][lane & 3][lane & ~3], lane_sums);
      row_sums[h][x] = (lane_sums[0] + lane_sums[1]) + (lane_sums[2] + lane_sums[3]);
    }
  sync_warp();
}

// Writes the importance of the warp's pair m in query set s over the rows whose sums are precise. Returns whether there
// are imprecise rows, which it marks in shared.imprecise.
PML_DEVICE bool finish_pair(const Problem& problem, Shared& shared, const Sums& sums, int s, int m) {
  const int lane = thread_index() & 31, g = lane >> 2, site = lane & 3;
  float row_sums[2][3], changes[2];
  gather(shared.sums[thread_index() >> 5], sums, lane, row_sums);
  bool is_large = false;
  uint32_t imprecise[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const RowStatistics row = shared.rows[s][g + 8 * h];
    const float sum_v = row_sums[h][0], b2 = row_sums[h][2], normalizer = 1.0f + sum_v;
    changes[h] = squared_change(sum_v, row.squares, row_sums[h][1], b2);
    const bool has_importance = row.count > 1;  // with a single key A' = A = 1
    const bool is_precise =
        b2 < LARGEST_SQUARES && sum_v > -0.5f && LARGEST_CANCELLATION * changes[h] * normalizer * normalizer >= b2;
    is_large |= has_importance && b2 >= SMALLEST_CHANGE * SMALLEST_CHANGE * row.squares;
    imprecise[h] = ballot(has_importance && !is_precise);
    if (!has_importance || (imprecise[h] >> 4 * g & 15) != 0) changes[h] = 0.0f;
  }
  const uint32_t lanes = ballot(is_large);
  float total = changes[0] + changes[1];
#pragma unroll
  for (int mask = 4; mask < 32; mask *= 2) total += shuffle_xor(total, mask);
  if (g == 0) {
    *partial_at(problem, shared.sets[s], m, site) = total;
    // Of every four lanes, the first two have the sites of query neurons and the last two those of key neurons.
    if (lanes & (site < 2 ? 0x33333333u : 0xccccccccu)) shared.large_change[s][site >> 1] = 1;
    if (site < 2) shared.imprecise[thread_index() >> 5][s][site] = site == 0 ? imprecise[0] : imprecise[1];
  }
  return (imprecise[0] | imprecise[1]) != 0;
}

// Adds the importance in the rows g (h = 0) or g + 8 (h = 1) that finish_pair() left out. The lanes of a warp share a
// row.
PML_DEVICE void add_imprecise_rows(
    const Problem& problem, const Shared& shared, const Scratch& scratch, const Keys& keys, int s, int h, int m) {
  const int lane = thread_index() & 31;
  for (uint32_t lanes = shared.imprecise[thread_index() >> 5][s][h]; lanes != 0;) {
    const int g = first_lane(lanes) / 4;
    lanes &= ~(15u << 4 * g);
    float changes[SITES];
    compute_changes_slowly<true>(problem, shared, scratch, keys, s, g + 8 * h, m, changes);
#pragma unroll
    for (int site = 0; site < SITES; site++)
      if (lane == site) *partial_at(problem, shared.sets[s], m, site) += changes[site];
  }
}

// Writes the importance of all neurons of a query set, in the slow path. A thread handles one pair and some of the
// rows.
PML_DEVICE void finish_slowly(const Problem& problem, Shared& shared, const Scratch& scratch, const Keys& keys, int s) {
  const int pairs = problem.size / 2, parts = THREADS / pairs, m = thread_index() % pairs,
            part = thread_index() / pairs;
  float total[SITES] = {};
  if (part < parts)
#pragma unroll 1
    for (int row = part; row < ROWS; row += parts) {
      if (shared.rows[s][row].count <= 1) continue;
      float changes[SITES];
      compute_changes_slowly<false>(problem, shared, scratch, keys, s, row, m, changes);
#pragma unroll
      for (int site = 0; site < SITES; site++) total[site] += changes[site];
    }
  store_four(shared.thread_changes[thread_index()], total[0], total[1], total[2], total[3]);
  sync_block();
  for (int x = thread_index(); x < SITES * pairs; x += THREADS) {
    float sum = 0.0f;
    for (int y = 0; y < parts; y++) sum += shared.thread_changes[y * pairs + x / SITES][x % SITES];
    *partial_at(problem, shared.sets[s], x / SITES, x % SITES) = sum;
  }
  sync_block();
}

}  // namespace pymultiling
