// The queries' factors of the sweep's products, written once for all tiles of keys.
#pragma once

#include "keys.cuh"

namespace pymultiling {

// Shifts are multiples of this, so that their sums are exact and two bfloat16 hold them.
constexpr float SHIFT_STEP = 1.0f / 256;

PML_DEVICE float rounded_shift(float x) { return rintf(x * (1.0f / SHIFT_STEP)) * SHIFT_STEP; }

// A query, which is a row of a query set.
struct Query {
  const Bfloat16 *q, *plain;  // its head in q and in q_plain
  int position;
  bool exists;
};

// Returns the query of a row of query set s. It does not exist if the row attends to no key.
PML_DEVICE Query locate_query(const Problem& problem, const Shared& shared, int b, int s, int row) {
  const QuerySet set = shared.sets[s];
  const int i = set.tile * ROWS + row;
  if (shared.rows[s][row].count == 0) return {nullptr, nullptr, 0, false};
  return {
      problem.q + b * problem.q_at.batch + set.head * problem.q_at.head + row_offset(i, problem.q_at.row),
      problem.q_plain + b * problem.q_plain_at.batch + set.head * problem.q_plain_at.head +
          row_offset(i, problem.q_plain_at.row),
      i, true};
}

// Writes the words of row g (h = 0) or g + 8 (h = 1) for pair m.
PML_DEVICE void write_query_words(
    const Problem& problem, const Query& query, int64_t table_offset, int m, const float* means, QueryWords& out,
    int h) {
  float q_n = 0.0f, q_p = 0.0f, mean[MEANS] = {};
  ZeroingEffect effect = {0.0f, 0.0f, 0.0f, 0.0f};
  if (query.exists) {
    const Pair pair = locate_pair(problem, m);
    q_n = bfloat16_value(query.q + pair.n);
    q_p = bfloat16_value(query.q + pair.p);
    effect = zeroing_effect(
        bfloat16_value(query.plain + pair.n), bfloat16_value(query.plain + pair.p),
        load_rotation(problem, table_offset, query.position, m), problem.scale);
#pragma unroll
    for (int kind = 0; kind < MEANS; kind++) mean[kind] = means[kind * ROWS];
  }
  const RoundingError error = rounding_error(effect, q_n, q_p, problem.scale);
  const float query_p = rounded_shift(-(effect.p_to_n * mean[KEY_N_MEAN] + effect.p_to_p * mean[KEY_P_MEAN]));
  const float key_n = rounded_shift(-(q_n * mean[N_TO_N] + q_p * mean[N_TO_P]));
  const float key_p = rounded_shift(-(q_n * mean[P_TO_N] + q_p * mean[P_TO_P]));
  // These are the shifts of t_qp, t_kn, t_kp and t_qn (sweep.cuh). P = 2^(t_kn - t_qp) has the difference of two in its
  // exponent. query_n is chosen so that they cancel in t_qn + t_qp - t_kn - t_kp.
  const float log_ratio = key_n - query_p, query_n = log_ratio + key_p;

  uint32_t of_p[3], of_n[3], error_words[2];
  split(effect.p_to_n, effect.p_to_p, of_p);
  split(effect.n_to_n, effect.n_to_p, of_n);
  split(error.n * (LN_2 * ROOT_HALF), error.p * (LN_2 * ROOT_HALF), error_words);
  const uint32_t q = pack(q_n, q_p);
  // Slot 3 holds the shift, which the keys' side multiplies by 1. The exponent x of sweep.cuh has no shift.
#pragma unroll
  for (int c = 0; c < 4; c++) {
    out.three[c][0][h] = c < 3 ? of_p[c] : pack_sum(query_p);
    out.three[c][1][h] = c < 3 ? q : pack_sum(key_p);
    out.three[c][2][h] = c < 3 ? of_p[c] ^ TWO_SIGNS : pack_sum(log_ratio);  // -t_qp; sweep() adds t_kn
    out.three[c][3][h] = c < 2 ? error_words[c] : q ^ TWO_SIGNS;  // error of q' times k', then -q' times that of k'
    out.four[c][0][h] = c < 3 ? 0u : pack_sum(key_n);             // the shift alone; sweep() adds t_kn
    out.four[c][1][h] = c < 3 ? of_n[c] : pack_sum(query_n);
  }
  // The keys' bound is at least every effect, and X_PER_CHANGE times every rounding error (keys.cuh). |k'| times the
  // scale is at most the effects of both neurons (2 bounds) plus the rounding error (1/256 bound), so below 2.1 bounds.
  const float query_size = fabsf(q_n) + fabsf(q_p), effect_size = fabsf(effect.p_to_n) + fabsf(effect.p_to_p);
  const float error_size = fabsf(error.n) + fabsf(error.p);
  out.factor[h] =
      (query_size + (effect_size + X_PER_CHANGE * error_size) * (2.1f / problem.scale)) * (1.0f / LARGEST_CHANGE);
  out.shift_bound[h] =
      larger(larger(fabsf(query_p), fabsf(key_p)), larger(fabsf(key_n), larger(fabsf(log_ratio), fabsf(query_n)))) *
      (1.0f / LARGEST_CHANGE);
}

// Writes the words of all queries. Lanes correspond to rows, with two pairs per warp.
PML_DEVICE void make_query_words(const Problem& problem, const Shared& shared, const Scratch& scratch, int b) {
  const int row = thread_index() % ROWS;
  for (int s = 0; s < SETS; s++) {
    const Query query = locate_query(problem, shared, b, s, row);
    for (int m = thread_index() / ROWS; m < problem.size / 2; m += THREADS / ROWS)
      write_query_words(
          problem, query, b * problem.table_batch, m, pair_means(problem, scratch, s, m) + row,
          query_words(problem, scratch, s, m)[row % 8], row / 8);
  }
}

// The largest bound of the keys for which three exponentials are sufficient, for all rows of a warp's pair and query
// set. A NaN is too large.
struct ThreeLimit {
  float factor, shift_bound;

  PML_DEVICE bool allows(float largest) const { return multiply_add(factor, largest, shift_bound) <= 1.0f; }
};

PML_DEVICE ThreeLimit load_three_limit(const QueryWords* rows, int lane) {
  const int h = lane / 8 % 2;
  return {max_over_lanes(rows[lane % 8].factor[h]), max_over_lanes(rows[lane % 8].shift_bound[h])};
}

}  // namespace pymultiling
