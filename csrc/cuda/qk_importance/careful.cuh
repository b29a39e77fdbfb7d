// The slow way, for few: a row's change by a pair's four neurons from logarithms, right for any change of the scores.
//
// With T = log2 sum_j A 2^t the change is v = A (2^(t - T) - 1), in digits that neither overflow nor cancel.
#pragma once

#include "queries.cuh"
#include "softmax.cuh"

namespace pymultiling {

// 2^t - 1 where |t| <= 1/2, to float32's precision.
PML_DEVICE float power_minus_1(float t) {
  float p = 1.5252733804059841e-05f;
  p = fused(p, t, 1.5403530393381610e-04f);
  p = fused(p, t, 1.3333558146428443e-03f);
  p = fused(p, t, 9.6181291076284772e-03f);
  p = fused(p, t, 5.5504108664821580e-02f);
  p = fused(p, t, 2.4022650695910072e-01f);
  p = fused(p, t, 6.9314718055994531e-01f);
  return p * t;
}

PML_DEVICE float squared_change(float m, float b0, float b1, float b2) {
  const float change = quotient(fused(m, fused(m, b0, -2.0f * b1), b2), (1.0f + m) * (1.0f + m));
  return change < 0.0f ? 0.0f : change;  // what rounding left of 0; NaN stays
}

// What a row has of a pair: t at its sites is bilinear in this and in a key's part of the pair.
struct RowOfPair {
  float n[2], p[2], q[2], shift[SITES];
};

PML_DEVICE RowOfPair row_of_pair(const QueryWords& words, int h) {
  RowOfPair row;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const auto half = [&](uint32_t word) { return i ? high_half(word) : low_half(word); };
    row.n[i] = half(words.four[0][1][h]) + (half(words.four[1][1][h]) + half(words.four[2][1][h]));
    row.p[i] = half(words.three[0][0][h]) + (half(words.three[1][0][h]) + half(words.three[2][0][h]));
    row.q[i] = half(words.three[0][1][h]);
  }
  row.shift[QUERY_N] = of_two(words.four[3][1][h]);
  row.shift[QUERY_P] = of_two(words.three[3][0][h]);
  row.shift[KEY_N] = of_two(words.four[3][0][h]);
  row.shift[KEY_P] = of_two(words.three[3][1][h]);
  return row;
}

// t at key j.
PML_DEVICE void changed(
    const Problem& problem, const Keys& keys, const RowOfPair& row, int m, int j, float (&t)[SITES]) {
  const Pair pair = pair_at(problem, m);
  const Half *key = keys.k + row_offset(j, problem.k_at.row),
             *plain = keys.plain + row_offset(j, problem.k_plain_at.row);
  const float n = half_value(key + pair.n), p = half_value(key + pair.p);
  const Removed x = removed(
      half_value(plain + pair.n), half_value(plain + pair.p), load_turn(problem, keys.table, j, m), problem.scale);
  t[QUERY_N] = fused(row.n[0], n, fused(row.n[1], p, row.shift[QUERY_N]));
  t[QUERY_P] = fused(row.p[0], n, fused(row.p[1], p, row.shift[QUERY_P]));
  t[KEY_N] = fused(row.q[0], x.n_to_n, fused(row.q[1], x.n_to_p, row.shift[KEY_N]));
  t[KEY_P] = fused(row.q[0], x.p_to_n, fused(row.q[1], x.p_to_p, row.shift[KEY_P]));
}

// ACROSS: the lanes of a warp share a row and pair, and take its keys in turn; else every lane has its own.
template <bool ACROSS>
PML_DEVICE float sum_of_lanes(float x) {
#pragma unroll
  for (int mask = 1; ACROSS && mask < 32; mask *= 2) x += from_lane_xor(x, mask);
  return x;
}

template <bool ACROSS>
PML_DEVICE void careful_changes(
    const Problem& problem, const Shared& shared, const Scratch& scratch, const Keys& keys, int s, int row, int m,
    float (&changes)[SITES]) {
  const int lane = thread_index() & 31, step = ACROSS ? 32 : 1;
  const Set set = shared.sets[s];
  const int first = set.first * GROUP + (ACROSS ? lane : 0), last = set.first * GROUP + set.keys;
  RowOfPair of_row = row_of_pair(query_words(problem, scratch, s, m)[row % 8], row / 8);
  const auto log_a = [&](int key) {
    const int within = key % GROUP, owner = 4 * (row % 8) + within % 8 / 2;
    return logs_of(scratch.logs, s, key / GROUP)[in_group(within / 8, owner) + 2 * (row / 8) + within % 2];
  };
  float t[SITES];
  Running running[SITES];
#pragma unroll 1
  for (int key = first; key < last; key += step) {
    const float log = log_a(key);
    if (log < SEEN) continue;
    changed(problem, keys, of_row, m, shared.start + key, t);
#pragma unroll
    for (int site = 0; site < SITES; site++) {
      const float log_p = log + t[site], most = highest(log_p, running[site].most);
      running[site].rise(most);
      running[site].total += power_of_2(log_p - most);
    }
  }
#pragma unroll
  for (int site = 0; site < SITES; site++) {
    float most = running[site].most;
#pragma unroll
    for (int mask = 1; ACROSS && mask < 32; mask *= 2) most = highest(from_lane_xor(most, mask), most);
    running[site].rise(most);
    of_row.shift[site] -= most + log_2(sum_of_lanes<ACROSS>(running[site].total));
  }
  float b0 = 0.0f, m_sum[SITES] = {}, b1[SITES] = {}, b2[SITES] = {};
#pragma unroll 1
  for (int key = first; key < last; key += step) {
    const float log = log_a(key), a = power_of_2(log);
    if (log < SEEN) continue;
    changed(problem, keys, of_row, m, shared.start + key, t);
    b0 = fused(a, a, b0);
#pragma unroll
    for (int site = 0; site < SITES; site++) {
      const float v = fabsf(t[site]) < 0.5f ? a * power_minus_1(t[site]) : power_of_2(log + t[site]) - a;
      m_sum[site] += v;
      b1[site] = fused(a, v, b1[site]);
      b2[site] = fused(v, v, b2[site]);
    }
  }
  b0 = sum_of_lanes<ACROSS>(b0);
#pragma unroll
  for (int site = 0; site < SITES; site++)
    changes[site] = squared_change(
        sum_of_lanes<ACROSS>(m_sum[site]), b0, sum_of_lanes<ACROSS>(b1[site]), sum_of_lanes<ACROSS>(b2[site]));
}

}  // namespace pymultiling
