// The rows' softmax. Writes log2 A and A of every key that an item's rows attend to, to the block's scratch, and the
// sums that are the same for all neurons.
#pragma once

#include "layout.cuh"
#include "sweep.cuh"

namespace pymultiling {

using Four = FourOf<uint32_t>;

PML_DEVICE Four load_16_bytes(const Bfloat16* at) { return *reinterpret_cast<const Four*>(at); }

// A running softmax over the keys that this lane has processed, for row g or g + 8. The maximum starts as HIDDEN; the
// total is meaningless until it is raised.
struct RunningSoftmax {
  float maximum = HIDDEN, total = 0.0f;
  int count = 0;

  PML_DEVICE void raise_maximum(float to) {
    total *= power_of_2(maximum - to);
    maximum = to;
  }
};

// Returns the larger number, and b if either is NaN.
PML_DEVICE float highest(float a, float b) { return a > b ? a : b; }

// Computes the attention scores of a query set's rows and GROUP keys from `first` on, times log2(e). They are HIDDEN
// where a query does not attend to the key, and NaN where they are infinite: no softmax can weigh those. A lane reads 8
// dimensions at once, in an order that is the same for queries and keys.
PML_DEVICE void compute_scores(
    const Problem& problem, const Bfloat16* const (&query)[2], const int (&i)[2], const bool (&exists)[2],
    const Keys& keys, int first, int lane, float (&scores)[4][4]) {
  const int g = lane >> 2, c = lane & 3;
  const Bfloat16* key[4];
#pragma unroll
  for (int step = 0; step < 4; step++) {
    const int j = first + 8 * step + g;
    key[step] = keys.k + row_offset(j < problem.length ? j : problem.length - 1, problem.k_at.row) + 8 * c;
#pragma unroll
    for (int x = 0; x < 4; x++) scores[step][x] = 0.0f;
  }
  const Bfloat16 *above = query[0] + 8 * c, *below = query[1] + 8 * c;
#pragma unroll 4
  for (int d = 0; d < problem.size; d += 32) {
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
  const uint32_t valid = ballot(j < problem.length && keys.valid[j]) >> 2 * c;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int distance = exists[h] ? i[h] - (first + 2 * c) : -GROUP;  // negative if the key is after the query
#pragma unroll
    for (int step = 0; step < 4; step++)
#pragma unroll
      for (int x = 0; x < 2; x++) {
        const int key = 8 * step + x;
        const bool visible = (valid >> key & 1) != 0 && uint32_t(distance - key) < uint32_t(problem.window);
        float& score = scores[step][2 * h + x];
        score = visible ? multiply_add(0.0f, score, score * problem.scale) : HIDDEN;
      }
  }
}

// Computes the attention scores and their log2 sums. The warps of a query set take its groups in turn.
PML_DEVICE void softmax(const Problem& problem, Shared& shared, const Scratch& scratch, const Keys& keys, int b) {
  const int lane = thread_index() & 31, warp = thread_index() >> 5, g = lane >> 2, s = warp % SETS;
  const QuerySet set = shared.sets[s];
  const Bfloat16* query[2];
  int i[2];
  bool exists[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    i[h] = set.tile * ROWS + g + 8 * h;
    exists[h] = set.tile >= 0 && i[h] < problem.length && keys.valid[i[h]];
    query[h] = problem.q + b * problem.q_at.batch + set.head * problem.q_at.head +
               row_offset(exists[h] ? i[h] : 0, problem.q_at.row);
  }
  RunningSoftmax running[2];
  for (int group = set.first + warp / SETS; group < set.last; group += WARPS / SETS) {
    float scores[4][4];
    compute_scores(problem, query, i, exists, keys, shared.start + group * GROUP, lane, scores);
    float* out = group_logs(scratch.logs, s, group);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float maximum = running[h].maximum;
      // NaN does not raise the maximum but stays in the total.
#pragma unroll
      for (int x = 0; x < 8; x++) maximum = highest(scores[x >> 1][2 * h + (x & 1)], maximum);
      running[h].raise_maximum(maximum);
#pragma unroll
      for (int x = 0; x < 8; x++) {
        const float score = scores[x >> 1][2 * h + (x & 1)];
        running[h].total += power_of_2(score - maximum);
        running[h].count += score != HIDDEN;
      }
    }
#pragma unroll
    for (int step = 0; step < 4; step++) {
      Four x;
#pragma unroll
      for (int k = 0; k < 4; k++) x.x[k] = to_bits(scores[step][k]);
      *reinterpret_cast<Four*>(out + group_offset(step, lane)) = x;
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    RunningSoftmax& row = running[h];
    float maximum = row.maximum;
    maximum = highest(shuffle_xor(maximum, 1), maximum);
    maximum = highest(shuffle_xor(maximum, 2), maximum);
    row.raise_maximum(maximum);
    float count = float(row.count);
#pragma unroll
    for (int mask = 1; mask < 4; mask *= 2) {
      row.total += shuffle_xor(row.total, mask);
      count += shuffle_xor(count, mask);
    }
    if ((lane & 3) == 0) {
      float (&results)[3] = shared.warp_results[warp][g + 8 * h];
      results[0] = maximum;
      results[1] = row.total;
      results[2] = count;
    }
  }
  sync_block();
  if (thread_index() < SETS * ROWS) {
    const int set_index = thread_index() / ROWS, row = thread_index() % ROWS;
    RunningSoftmax combined;
    float count = 0.0f;
    for (int w = set_index; w < WARPS; w += SETS) {
      const float (&part)[3] = shared.warp_results[w][row];
      const float maximum = highest(part[0], combined.maximum);
      combined.raise_maximum(maximum);
      combined.total += part[1] * power_of_2(part[0] - maximum);
      count += part[2];
    }
    const float log2_sum = combined.maximum + log2_of(combined.total);
    // Rows of a single key are left out, because A' = A = 1. If its score is infinite or NaN, so is the result.
    const bool is_nan = log2_sum != log2_sum;
    shared.rows[set_index][row] = {log2_sum, 0.0f, is_nan && count == 1.0f ? 2 : int(count)};
  }
  sync_block();
}

// Replaces the attention scores by log2 A, writes A after them, and sums A^2 of every row.
PML_DEVICE void normalize(Shared& shared, const Scratch& scratch) {
  const int lane = thread_index() & 31, warp = thread_index() >> 5, g = lane >> 2, s = warp % SETS;
  const QuerySet set = shared.sets[s];
  const float log2_sum[2] = {shared.rows[s][g].log2_sum, shared.rows[s][g + 8].log2_sum};
  float squares[2] = {0.0f, 0.0f};
  for (int group = set.first + warp / SETS; group < set.last; group += WARPS / SETS) {
    float* at = group_logs(scratch.logs, s, group);
#pragma unroll
    for (int step = 0; step < 4; step++) {
      float x[4];
      Four log_a, a;
      load_four(at + group_offset(step, lane), x);
#pragma unroll
      for (int k = 0; k < 4; k++) {
        x[k] -= log2_sum[k >> 1];
        log_a.x[k] = to_bits(x[k]);
        x[k] = power_of_2(x[k]);
        a.x[k] = to_bits(x[k]);
        squares[k >> 1] = multiply_add(x[k], x[k], squares[k >> 1]);
      }
      *reinterpret_cast<Four*>(at + group_offset(step, lane)) = log_a;
      *reinterpret_cast<Four*>(at + GROUP_FLOATS + group_offset(step, lane)) = a;
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    squares[h] += shuffle_xor(squares[h], 1);
    squares[h] += shuffle_xor(squares[h], 2);
    if ((lane & 3) == 0) shared.warp_results[warp][g + 8 * h][0] = squares[h];
  }
  sync_block();
  if (thread_index() < SETS * ROWS) {
    const int set_index = thread_index() / ROWS, row = thread_index() % ROWS;
    float sum = 0.0f;
    for (int w = set_index; w < WARPS; w += SETS) sum += shared.warp_results[w][row][0];
    shared.rows[set_index][row].squares = sum;
  }
  sync_block();
}

}  // namespace pymultiling
