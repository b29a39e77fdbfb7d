// The inner loops of qk_importance: one query row i against its keys j for LANES neurons n. The three sums of
// qk_change.h stay in registers; nothing is stored.
#pragma once

#include "qk_change.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

// Sums over keys [first, last), at most KEYS of them. `weighted` returns A u from (A, t, key).
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

// Returns A (2^t - 1) as 2^n A (2^f - 1) + (2^n A - A), which is precise for small t. Needs |t| < 126.
PYMULTILING_INLINE vec weighted_change(vec a, vec t) {
  const vec n = nearest(t), grown = times_power_of_two(a, n);
  return grown * exp2_minus_1_near_0(t - n) + (grown - a);
}

// Sums over all keys of a row, with a partial sum for every KEYS keys.
template <typename ChangeOf, typename Weighted>
PYMULTILING_INLINE Sums sweep_row(const ChangeOf& change, Weighted weighted) {
  const Row& row = change.row;
  Sums s;
  for (int64_t from = row.first; from < row.last; from += KEYS)
    add(s, sweep(change, from, from + KEYS < row.last ? from + KEYS : row.last, weighted));
  return s;
}

// Returns sum_j (A' - A)^2 where a sweep found that its m, given here, is too large. With t shifted by log2(1 + m), A
// 2^t is A' itself, so m is 0 up to rounding and the sums do not cancel. `sink` is t of the sink.
template <typename ChangeOf>
static vec recentred(ChangeOf change, vec m, vec sink) {
  for (int i = 0; i < LANES; i++) m[i] = LOG2_E * __builtin_log1pf(m[i]);
  change.shift(m);
  Sums s = sweep_row(change, [](vec a, vec t, int64_t) { return weighted_change(a, t); });
  if (change.row.has_sink) s.m += weighted_change(splat(change.row.sink), sink - m);
  return squared_change(s, change.row.squares);
}

// Returns sum_j (A' - A)^2 for any t, using logarithms. The shift is log2 of sum_j A 2^t, computed with its largest
// exponent factored out. A' is computed from log2 A + t, which also works where A is too small or 2^t too large for a
// float. `sink` is t of the sink.
template <typename ChangeOf>
static vec log_space_change(ChangeOf change, vec sink) {
  const Row& row = change.row;
  vec shift = splat(-__builtin_inff());
  for (int64_t j = row.first; j < row.last; j++) shift = max(row.log2_probability[j] + change(j), shift);
  if (row.has_sink) shift = max(row.log2_sink + sink, shift);
  vec total{};
  for (int64_t from = row.first; from < row.last; from += KEYS) {
    vec part{};
    for (int64_t j = from; j < row.last && j < from + KEYS; j++)
      part += exp2(row.log2_probability[j] + change(j) - shift);
    total += part;
  }
  if (row.has_sink) total += exp2(row.log2_sink + sink - shift);
  vec log2_total;
  for (int i = 0; i < LANES; i++) log2_total[i] = __builtin_log2f(total[i]);
  // Where t is so large that its rounding exceeds 1, t minus the shift is anything. The exponents of A' are then
  // computed as above, so that none is above 0 and one is about 0, and t is not used where it contradicts them.
  const ChangeOf unshifted = change;
  change.shift(shift + log2_total);
  const auto weighted = [&](vec a, float log2_a, vec t, vec exponent) {
    const vec small = a * exp2_minus_1_near_0(t), any = exp2(exponent) - a;
    return (abs(t) < 0.5f) & (abs(exponent - log2_a) < 1.0f) ? small : any;
  };
  Sums s = sweep_row(change, [&](vec a, vec t, int64_t j) {
    const float log2_a = row.log2_probability[j];
    return weighted(a, log2_a, t, log2_a + unshifted(j) - shift - log2_total);
  });
  if (row.has_sink)
    s.m += weighted(
        splat(row.sink), row.log2_sink, sink - (shift + log2_total), row.log2_sink + sink - shift - log2_total);
  return squared_change(s, row.squares);
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
