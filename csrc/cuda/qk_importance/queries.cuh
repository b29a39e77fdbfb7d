// The queries' side of the sweep's products: what every query has of every pair, written once for all tiles of keys.
#pragma once

#include "keys.cuh"

namespace pymultiling {

// Shifts are whole multiples of this, so that sums of them are exact, and two bfloat16 hold them.
constexpr float SHIFT_STEP = 1.0f / 256;

PML_DEVICE float rounded_shift(float x) { return rintf(x * (1.0f / SHIFT_STEP)) * SHIFT_STEP; }

// A query's row of a set.
struct Query {
  const Half *q, *plain;
  int position;
  bool there;
};

PML_DEVICE Query query_at(const Problem& p, const Shared& shared, int b, int s, int row) {
  const Set set = shared.sets[s];
  const int i = set.tile * ROWS + row;
  if (shared.rows[s][row].count == 0) return {nullptr, nullptr, 0, false};
  return {
      p.q + b * p.q_at.batch + set.head * p.q_at.head + row_offset(i, p.q_at.row),
      p.q_plain + b * p.q_plain_at.batch + set.head * p.q_plain_at.head + row_offset(i, p.q_plain_at.row), i, true};
}

PML_DEVICE void write_query_words(
    const Problem& problem, const Query& query, int64_t table, int m, const float* means, QueryWords& out, int h) {
  float q_n = 0.0f, q_p = 0.0f, mean[MEANS] = {};
  Removed x = {0.0f, 0.0f, 0.0f, 0.0f};
  if (query.there) {
    const Pair pair = pair_at(problem, m);
    q_n = half_value(query.q + pair.n);
    q_p = half_value(query.q + pair.p);
    x = removed(
        half_value(query.plain + pair.n), half_value(query.plain + pair.p),
        load_turn(problem, table, query.position, m), problem.scale);
#pragma unroll
    for (int kind = 0; kind < MEANS; kind++) mean[kind] = means[kind * ROWS];
  }
  const Lacking rest = lacking(x, q_n, q_p, problem.scale);
  const float query_p = rounded_shift(-(x.p_to_n * mean[KEY_N_MEAN] + x.p_to_p * mean[KEY_P_MEAN]));
  const float key_n = rounded_shift(-(q_n * mean[N_TO_N] + q_p * mean[N_TO_P]));
  const float key_p = rounded_shift(-(q_n * mean[P_TO_N] + q_p * mean[P_TO_P]));
  const float ratio = key_n - query_p, query_n = ratio + key_p;

  uint32_t of_p[3], of_n[3], lacks[2];
  split(x.p_to_n, x.p_to_p, of_p);
  split(x.n_to_n, x.n_to_p, of_n);
  split(rest.n * (LN_2 * ROOT_HALF), rest.p * (LN_2 * ROOT_HALF), lacks);
  const uint32_t q = pack(q_n, q_p), minus = 0x80008000u;
#pragma unroll
  for (int c = 0; c < 4; c++) {
    out.three[c][0][h] = c < 3 ? of_p[c] : in_two(query_p);
    out.three[c][1][h] = c < 3 ? q : in_two(key_p);
    out.three[c][2][h] = c < 3 ? of_p[c] ^ minus : in_two(ratio);
    out.three[c][3][h] = c < 2 ? lacks[c] : q ^ minus;
    out.four[c][0][h] = c < 3 ? 0u : in_two(key_n);
    out.four[c][1][h] = c < 3 ? of_n[c] : in_two(query_n);
  }
  // k' times the scale is at most what is taken out of it by both neurons and what it lacks: 2.1 of the keys' bound.
  const float here = fabsf(q_n) + fabsf(q_p), taken = fabsf(x.p_to_n) + fabsf(x.p_to_p);
  const float lack = fabsf(rest.n) + fabsf(rest.p);
  out.factor[h] = (here + (taken + X_PER_CHANGE * lack) * (2.1f / problem.scale)) * (1.0f / MOST_CHANGE);
  out.moved[h] =
      larger(larger(fabsf(query_p), fabsf(key_p)), larger(fabsf(key_n), larger(fabsf(ratio), fabsf(query_n)))) *
      (1.0f / MOST_CHANGE);
}

// Lanes are rows, two pairs a warp.
PML_DEVICE void make_query_words(const Problem& problem, const Shared& shared, const Scratch& scratch, int b) {
  const int row = thread_index() % ROWS;
  for (int s = 0; s < SETS; s++) {
    const Query query = query_at(problem, shared, b, s, row);
    for (int m = thread_index() / ROWS; m < problem.size / 2; m += THREADS / ROWS)
      write_query_words(
          problem, query, b * problem.table_batch, m, means_of(problem, scratch, s, m) + row,
          query_words(problem, scratch, s, m)[row % 8], row / 8);
  }
}

// How large the keys' bound may be for three exponentials to do, for all rows of a warp's pair and set. NaN is too
// large.
struct Reach {
  float factor, moved;

  PML_DEVICE bool covers(float largest) const { return fused(factor, largest, moved) <= 1.0f; }
};

PML_DEVICE Reach find_reach(const QueryWords* rows, int lane) {
  const int h = lane / 8 % 2;
  return {largest_of_lanes(rows[lane % 8].factor[h]), largest_of_lanes(rows[lane % 8].moved[h])};
}

}  // namespace pymultiling
