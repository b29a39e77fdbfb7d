// The rows' softmax: log2 A and A of every key that an item's rows see, to the block's scratch, and the sums that are
// the same for all neurons.
#pragma once

#include "layout.cuh"
#include "sweep.cuh"

namespace pymultiling {

using Four = FourOf<uint32_t>;

PML_DEVICE Four load_16_bytes(const Half* at) { return *reinterpret_cast<const Four*>(at); }

// Rows g and g + 8, over the keys that this lane has had. most starts hidden, at which the total means nothing.
struct Running {
  float most = HIDDEN, total = 0.0f;
  int count = 0;

  PML_DEVICE void rise(float to) {
    total *= power_of_2(most - to);
    most = to;
  }
};

PML_DEVICE float highest(float a, float b) { return a > b ? a : b; }

// Scores of the set's rows and GROUP keys from `first` on, times log2(e), HIDDEN where a query does not see the key. A
// lane takes the dimensions in an order of its own, the same for queries and keys: 8 at once.
PML_DEVICE void score(
    const Problem& p, const Half* const (&query)[2], const int (&i)[2], const bool (&there)[2], const Keys& keys,
    int first, int lane, float (&scores)[4][4]) {
  const int g = lane >> 2, c = lane & 3;
  const Half* key[4];
#pragma unroll
  for (int step = 0; step < 4; step++) {
    const int j = first + 8 * step + g;
    key[step] = keys.k + row_offset(j < p.length ? j : p.length - 1, p.k_at.row) + 8 * c;
#pragma unroll
    for (int x = 0; x < 4; x++) scores[step][x] = 0.0f;
  }
  const Half *above = query[0] + 8 * c, *below = query[1] + 8 * c;
#pragma unroll 4
  for (int d = 0; d < p.size; d += 32) {
    const Four upper = load_16_bytes(above), lower = load_16_bytes(below);
    above += 32;
    below += 32;
#pragma unroll
    for (int step = 0; step < 4; step++) {
      const Four k = load_16_bytes(key[step]);
      key[step] += 32;
      mma_16(scores[step], upper.x[0], lower.x[0], upper.x[1], lower.x[1], k.x[0], k.x[1], scores[step]);
      mma_16(scores[step], upper.x[2], lower.x[2], upper.x[3], lower.x[3], k.x[2], k.x[3], scores[step]);
    }
  }
  const int j = first + lane;
  const uint32_t valid = lanes_where(j < p.length && keys.valid[j]) >> 2 * c;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int distance = there[h] ? i[h] - (first + 2 * c) : -GROUP;  // negative: after the query
#pragma unroll
    for (int step = 0; step < 4; step++)
#pragma unroll
      for (int x = 0; x < 2; x++) {
        const int key = 8 * step + x;
        const bool seen = (valid >> key & 1) != 0 && uint32_t(distance - key) < uint32_t(p.window);
        float& score = scores[step][2 * h + x];
        score = seen ? score * p.scale : HIDDEN;
      }
  }
}

// Warps of a set take its groups in turn.
PML_DEVICE void softmax(const Problem& p, Shared& shared, const Scratch& scratch, const Keys& keys, int b) {
  const int lane = thread_index() & 31, warp = thread_index() >> 5, g = lane >> 2, s = warp % SETS;
  const Set set = shared.sets[s];
  const Half* query[2];
  int i[2];
  bool there[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    i[h] = set.tile * ROWS + g + 8 * h;
    there[h] = set.tile >= 0 && i[h] < p.length && keys.valid[i[h]];
    query[h] = p.q + b * p.q_at.batch + set.head * p.q_at.head + row_offset(there[h] ? i[h] : 0, p.q_at.row);
  }
  Running running[2];
  for (int group = set.first + warp / SETS; group < set.last; group += WARPS / SETS) {
    float scores[4][4];
    score(p, query, i, there, keys, shared.start + group * GROUP, lane, scores);
    float* out = logs_of(scratch.logs, s, group);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float most = running[h].most;
#pragma unroll
      for (int x = 0; x < 8; x++)
        most = highest(scores[x >> 1][2 * h + (x & 1)], most);  // NaN raises nothing, but stays in the total
      running[h].rise(most);
#pragma unroll
      for (int x = 0; x < 8; x++) {
        const float one = scores[x >> 1][2 * h + (x & 1)];
        running[h].total += power_of_2(one - most);
        running[h].count += one != HIDDEN;
      }
    }
#pragma unroll
    for (int step = 0; step < 4; step++) {
      Four x;
#pragma unroll
      for (int k = 0; k < 4; k++) x.x[k] = to_bits(scores[step][k]);
      *reinterpret_cast<Four*>(out + in_group(step, lane)) = x;
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    Running& row = running[h];
    float most = row.most;
    most = highest(from_lane_xor(most, 1), most);
    most = highest(from_lane_xor(most, 2), most);
    row.rise(most);
    float count = float(row.count);
#pragma unroll
    for (int mask = 1; mask < 4; mask *= 2) {
      row.total += from_lane_xor(row.total, mask);
      count += from_lane_xor(count, mask);
    }
    if ((lane & 3) == 0) {
      float (&found)[3] = shared.found[warp][g + 8 * h];
      found[0] = most;
      found[1] = row.total;
      found[2] = count;
    }
  }
  meet();
  if (thread_index() < SETS * ROWS) {
    const int of = thread_index() / ROWS, row = thread_index() % ROWS;
    Running all;
    float count = 0.0f;
    for (int w = of; w < WARPS; w += SETS) {
      const float (&part)[3] = shared.found[w][row];
      const float most = highest(part[0], all.most);
      all.rise(most);
      all.total += part[1] * power_of_2(part[0] - most);
      count += part[2];
    }
    shared.rows[of][row] = {all.most + log_2(all.total), 0.0f, int(count)};
  }
  meet();
}

// Scores become log2 A, with A behind; sum A^2 goes to the rows.
PML_DEVICE void normalize(Shared& shared, const Scratch& scratch) {
  const int lane = thread_index() & 31, warp = thread_index() >> 5, g = lane >> 2, s = warp % SETS;
  const Set set = shared.sets[s];
  const float log2_sum[2] = {shared.rows[s][g].log2_sum, shared.rows[s][g + 8].log2_sum};
  float squares[2] = {0.0f, 0.0f};
  for (int group = set.first + warp / SETS; group < set.last; group += WARPS / SETS) {
    float* at = logs_of(scratch.logs, s, group);
#pragma unroll
    for (int step = 0; step < 4; step++) {
      float x[4];
      Four log_a, a;
      load_four(at + in_group(step, lane), x);
#pragma unroll
      for (int k = 0; k < 4; k++) {
        x[k] -= log2_sum[k >> 1];
        log_a.x[k] = to_bits(x[k]);
        x[k] = power_of_2(x[k]);
        a.x[k] = to_bits(x[k]);
        squares[k >> 1] = fused(x[k], x[k], squares[k >> 1]);
      }
      *reinterpret_cast<Four*>(at + in_group(step, lane)) = log_a;
      *reinterpret_cast<Four*>(at + GROUP_FLOATS + in_group(step, lane)) = a;
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    squares[h] += from_lane_xor(squares[h], 1);
    squares[h] += from_lane_xor(squares[h], 2);
    if ((lane & 3) == 0) shared.found[warp][g + 8 * h][0] = squares[h];
  }
  meet();
  if (thread_index() < SETS * ROWS) {
    const int of = thread_index() / ROWS, row = thread_index() % ROWS;
    float sum = 0.0f;
    for (int w = of; w < WARPS; w += SETS) sum += shared.found[w][row][0];
    shared.rows[of][row].squares = sum;
  }
  meet();
}

}  // namespace pymultiling
