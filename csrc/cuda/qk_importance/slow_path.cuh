// The slow path, for few rows. It uses logarithms and is precise for any change of the attention scores. For a row it
// computes sum_j (A' - A)^2 for each of a pair's four neurons: query n, query p, key n and key p, called sites here.
//
// The notation is that of qk_importance.cuh. Here T = log2 sum_j A 2^t is subtracted from t, so that A 2^(t - T) is A'
// and v = A (2^(t - T) - 1) is A' - A. It is computed in a form that neither overflows nor cancels.
#pragma once

#include "queries.cuh"
#include "softmax.cuh"

namespace pymultiling {

// Returns 2^t - 1 for |t| <= 1/2, precise in float32. The coefficient of t^i is ln(2)^i / i!.
PML_DEVICE float power_minus_1(float t) {
  float p = 1.5252733804059841e-05f;
  p = multiply_add(p, t, 1.5403530393381610e-04f);
  p = multiply_add(p, t, 1.3333558146428443e-03f);
  p = multiply_add(p, t, 9.6181291076284772e-03f);
  p = multiply_add(p, t, 5.5504108664821580e-02f);
  p = multiply_add(p, t, 2.4022650695910072e-01f);
  p = multiply_add(p, t, 6.9314718055994531e-01f);
  return p * t;
}

// Returns sum_j (A' - A)^2. `sum_v`, b0, b1 and b2 are the sums over j of v, A^2, A v and v^2.
PML_DEVICE float squared_change(float sum_v, float b0, float b1, float b2) {
  const float change =
      divide(multiply_add(sum_v, multiply_add(sum_v, b0, -2.0f * b1), b2), (1.0f + sum_v) * (1.0f + sum_v));
  return change < 0.0f ? 0.0f : change;  // rounding can make it slightly negative; NaN stays NaN
}

// A row's part of a pair. t at the pair's sites is bilinear in this and in a key's part of the pair. Arrays of 2 have a
// value for dimension n and one for dimension p.
struct RowPair {
  float n[2];          // the effect of zeroing query neuron n on the rotated query
  float p[2];          // the effect of zeroing query neuron p
  float q[2];          // the rotated query
  float shift[SITES];  // added to t of every key; compute_changes_slowly() also subtracts T from it
};

// Loads the part of row g (h = 0) or g + 8 (h = 1) from its words, which write_query_words() wrote (queries.cuh). An
// effect is the sum of three bfloat16, which are in the words of slots 0, 1 and 2. Slot 3 has the shifts.
PML_DEVICE RowPair load_row_pair(const QueryWords& words, int h) {
  RowPair row;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const auto value = [&](uint32_t word) { return i ? high_value(word) : low_value(word); };
    row.n[i] = value(words.four[0][1][h]) + (value(words.four[1][1][h]) + value(words.four[2][1][h]));
    row.p[i] = value(words.three[0][0][h]) + (value(words.three[1][0][h]) + value(words.three[2][0][h]));
    row.q[i] = value(words.three[0][1][h]);
  }
  row.shift[QUERY_N] = unpack_sum(words.four[3][1][h]);
  row.shift[QUERY_P] = unpack_sum(words.three[3][0][h]);
  row.shift[KEY_N] = unpack_sum(words.four[3][0][h]);
  row.shift[KEY_P] = unpack_sum(words.three[3][1][h]);
  return row;
}

// Computes t at key j for all sites of pair m.
PML_DEVICE void compute_t(
    const Problem& problem, const Keys& keys, const RowPair& row, int m, int j, float (&t)[SITES]) {
  const Pair pair = locate_pair(problem, m);
  const Bfloat16 *key = keys.k + row_offset(j, problem.k_at.row),
                 *plain = keys.plain + row_offset(j, problem.k_plain_at.row);
  const float n = bfloat16_value(key + pair.n), p = bfloat16_value(key + pair.p);
  const ZeroingEffect effect = zeroing_effect(
      bfloat16_value(plain + pair.n), bfloat16_value(plain + pair.p), load_rotation(problem, keys.table_offset, j, m),
      problem.scale);
  t[QUERY_N] = multiply_add(row.n[0], n, multiply_add(row.n[1], p, row.shift[QUERY_N]));
  t[QUERY_P] = multiply_add(row.p[0], n, multiply_add(row.p[1], p, row.shift[QUERY_P]));
  t[KEY_N] = multiply_add(row.q[0], effect.n_to_n, multiply_add(row.q[1], effect.n_to_p, row.shift[KEY_N]));
  t[KEY_P] = multiply_add(row.q[0], effect.p_to_n, multiply_add(row.q[1], effect.p_to_p, row.shift[KEY_P]));
}

// With ACROSS, returns the sum of x over the warp, whose lanes share a row and a pair and divide the row's keys among
// them. Without it, returns x, because every lane has its own row and pair.
template <bool ACROSS>
PML_DEVICE float sum_over_lanes(float x) {
#pragma unroll
  for (int mask = 1; ACROSS && mask < 32; mask *= 2) x += shuffle_xor(x, mask);
  return x;
}

// Sets `changes` to sum_j (A' - A)^2 of row `row` of query set s at the sites of pair m. ACROSS: as in sum_over_lanes.
template <bool ACROSS>
PML_DEVICE void compute_changes_slowly(
    const Problem& problem, const Shared& shared, const Scratch& scratch, const Keys& keys, int s, int row, int m,
    float (&changes)[SITES]) {
  const int lane = thread_index() & 31, step = ACROSS ? 32 : 1;
  const QuerySet set = shared.sets[s];
  const int first = set.first * GROUP + (ACROSS ? lane : 0), last = set.first * GROUP + set.keys;
  RowPair row_pair = load_row_pair(query_words(problem, scratch, s, m)[row % 8], row / 8);
  // `owner` is the lane that has the row and key in the layout of layout.cuh (log2 A and A of GROUP keys).
  const auto log_a_of = [&](int key) {
    const int offset_in_group = key % GROUP, owner = 4 * (row % 8) + offset_in_group % 8 / 2;
    return group_logs(
        scratch.logs, s, key / GROUP)[group_offset(offset_in_group / 8, owner) + 2 * (row / 8) + offset_in_group % 2];
  };
  float t[SITES];
  RunningSoftmax running[SITES];
#pragma unroll 1
  for (int key = first; key < last; key += step) {
    const float log = log_a_of(key);
    if (log < LOWEST_VISIBLE) continue;
    compute_t(problem, keys, row_pair, m, shared.start + key, t);
#pragma unroll
    for (int site = 0; site < SITES; site++) {
      // log_changed is log2 of A 2^t.
      const float log_changed = log + t[site], maximum = highest(log_changed, running[site].maximum);
      running[site].raise_maximum(maximum);
      running[site].total += power_of_2(log_changed - maximum);
    }
  }
#pragma unroll
  for (int site = 0; site < SITES; site++) {
    float maximum = running[site].maximum;
#pragma unroll
    for (int mask = 1; ACROSS && mask < 32; mask *= 2) maximum = highest(shuffle_xor(maximum, mask), maximum);
    running[site].raise_maximum(maximum);
    row_pair.shift[site] -= maximum + log2_of(sum_over_lanes<ACROSS>(running[site].total));
  }
  float b0 = 0.0f, sum_v[SITES] = {}, b1[SITES] = {}, b2[SITES] = {};
#pragma unroll 1
  for (int key = first; key < last; key += step) {
    const float log = log_a_of(key), a = power_of_2(log);
    if (log < LOWEST_VISIBLE) continue;
    compute_t(problem, keys, row_pair, m, shared.start + key, t);
    b0 = multiply_add(a, a, b0);
#pragma unroll
    for (int site = 0; site < SITES; site++) {
      const float v = fabsf(t[site]) < 0.5f ? a * power_minus_1(t[site]) : power_of_2(log + t[site]) - a;
      sum_v[site] += v;
      b1[site] = multiply_add(a, v, b1[site]);
      b2[site] = multiply_add(v, v, b2[site]);
    }
  }
  b0 = sum_over_lanes<ACROSS>(b0);
#pragma unroll
  for (int site = 0; site < SITES; site++)
    changes[site] = squared_change(
        sum_over_lanes<ACROSS>(sum_v[site]), b0, sum_over_lanes<ACROSS>(b1[site]), sum_over_lanes<ACROSS>(b2[site]));
}

}  // namespace pymultiling
