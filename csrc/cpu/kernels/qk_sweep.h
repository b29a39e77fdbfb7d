// qk_importance's inner loops: one query row i against its keys j, LANES neurons n at a time. The three sums of
// qk_change.h stay in registers; nothing is stored.
#pragma once

#include "qk_change.h"

namespace pymultiling::PYMULTILING_LEVEL {

// The sums over keys [first, last), at most KEYS. `weighted` gives A u for (A, t, key).
template <typename ChangeOf, typename Weighted>
PYMULTILING_INLINE Sums sweep(const ChangeOf& change, int64_t first, int64_t last, Weighted weighted) {
  Sums s;
  for (int64_t j = first; j < last; j++) {
    const vec a = splat(change.row.probability[j]);
    const vec au = weighted(a, change(j), j);
    s.m += au;
    s.b1 += a * au;
    s.b2 += au * au;
  }
  return s;
}

// A (2^t - 1) as 2^n A (2^f - 1) + (2^n A - A): small t keeps its digits. Needs |t| < 126.
PYMULTILING_INLINE vec weighted_change(vec a, vec t) {
  const vec n = nearest(t), grown = times_power_of_two(a, n);
  return grown * exp2_minus_1_near_0(t - n) + (grown - a);
}

// The sums over all of a row's keys, a partial sum for every KEYS of them.
template <typename ChangeOf, typename Weighted>
PYMULTILING_INLINE Sums sweep_row(const ChangeOf& change, Weighted weighted) {
  const Row& row = change.row;
  Sums s;
  for (int64_t from = row.first; from < row.last; from += KEYS)
    add(s, sweep(change, from, from + KEYS < row.last ? from + KEYS : row.last, weighted));
  return s;
}

// sum_j (A' - A)^2 after a sweep that found `m` too large: shifted by log2(1 + m), A 2^t is A' itself, m vanishes up to
// rounding, and the sums cancel nothing.
template <typename ChangeOf>
static vec recentred(ChangeOf change, vec m) {
  for (int i = 0; i < LANES; i++) m[i] = LOG2_E * __builtin_log1pf(m[i]);
  change.shift(m);
  return squared_change(
      sweep_row(change, [](vec a, vec t, int64_t) { return weighted_change(a, t); }), change.row.squares);
}

// The same for any t, from logarithms: log2 of sum_j A 2^t with its largest exponent taken out is the shift, and A'
// comes from log2 A + t, where A may be too small and 2^t too large for a float.
template <typename ChangeOf>
static vec careful(ChangeOf change) {
  const Row& row = change.row;
  vec shift = splat(-__builtin_inff());
  for (int64_t j = row.first; j < row.last; j++) shift = max(row.log2_probability[j] + change(j), shift);
  vec total{};
  for (int64_t from = row.first; from < row.last; from += KEYS) {
    vec part{};
    for (int64_t j = from; j < row.last && j < from + KEYS; j++)
      part += exp2(row.log2_probability[j] + change(j) - shift);
    total += part;
  }
  for (int i = 0; i < LANES; i++) shift[i] += __builtin_log2f(total[i]);
  change.shift(shift);
  const Sums s = sweep_row(change, [&](vec a, vec t, int64_t j) {
    const vec small = a * exp2_minus_1_near_0(t), any = exp2(row.log2_probability[j] + t) - a;
    return abs(t) < 0.5f ? small : any;
  });
  return squared_change(s, row.squares);
}

}  // namespace pymultiling::PYMULTILING_LEVEL
