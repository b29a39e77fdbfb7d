// qk_importance's inner loops: one query row i against its keys j, LANES neurons n at a time.
//
//   u = 2^t - 1,  m = sum_j A u,  b0 = sum_j A^2,  b1 = sum_j A^2 u,  b2 = sum_j A^2 u^2
//   sum_j (A'_j - A_j)^2 = (b2 - 2 m b1 + m^2 b0) / (1 + m)^2
//
// t is the change of the scores times log2(e), less its mean under A or something near it: the identity holds for any
// shift of t, but only keeps its digits where m is small. The three sums stay in registers; nothing is stored.
#pragma once

#include "functions.h"
#include "qk_importance.h"

namespace pymultiling::PYMULTILING_LEVEL {

constexpr int64_t PEAKS = 16;

enum class Gain { none, row, key };

// One row's values over the keys, and its range of keys.
struct Row {
  int64_t first, last;         // keys [first, last)
  const float* probability;    // A
  const float* log2_probability;
  const float* score;          // S, before a soft cap; only where there is a gain or a cap
  const float *below, *above;  // 1 / (1 + e^(2x)) and 1 / (1 + e^(-2x)), x = S / softcap cut to +-20
  const float* cut;            // 2 log2(e) times what was cut off
  float squares;               // b0
  float largest_score;
  int64_t peaks;               // the keys with A > 1 / PEAKS
  int64_t peak[PEAKS];
  float other_slopes;          // over the keys that are no peaks: sum of A c, c the cap's slope at S (1 without a cap)
  float other_scores;          // and sum of A c S
};

// t of one row for LANES neurons. `near`, `far`, `grow` are the row's, `panel` starts at the lanes of key 0.
template <bool FAR, Gain GAIN, bool CAPPED>
struct Change {
  static constexpr int64_t STEP = (1 + FAR + (GAIN == Gain::key)) * BLOCK;
  const Row& row;
  const float* panel;
  vec near, far, grow, constant, centre;
  float softcap;

  __attribute__((always_inline)) vec operator()(int64_t j) const {
    const float* at = panel + j * STEP;
    vec t = near * load(at) + constant;
    if constexpr (FAR) t = far * load(at + BLOCK) + t;
    if constexpr (GAIN == Gain::row) t = grow * row.score[j] + t;
    if constexpr (GAIN == Gain::key) t = load(at + (1 + FAR) * BLOCK) * row.score[j] + t;
    if constexpr (CAPPED) t = capped(t, j) - centre;
    return t;
  }

  void shift(vec by) {
    if constexpr (CAPPED) {
      centre += by;
    } else {
      constant -= by;
    }
  }

  // tanh(x + z) - tanh(x) = 2 a b D / (a + b (1 + D)), D = e^(2z) - 1, a = 1 / (1 + e^(2x)), b = 1 / (1 + e^(-2x)).
  // D keeps its digits near z = 0, and 1 + D, a power made for itself, where z is far below.
  __attribute__((always_inline)) vec capped(vec t, int64_t j) const {
    vec z = t * (2.0f / softcap) + row.cut[j];
    z = z < -100.0f ? splat(-100.0f) : z;
    z = z > 100.0f ? splat(100.0f) : z;
    const vec n = nearest(z), power = times_power_of_two(splat(1.0f), n);
    const vec part = exp2_minus_1_near_0(z - n);
    const vec d = power * part + (power - 1.0f), one_and_d = power * part + power;
    const float a = row.below[j], b = row.above[j];
    return (2 * LOG2_E * softcap * a * b) * d / (a + b * one_and_d);
  }
};

struct Sums {
  vec m{}, b1{}, b2{};
};

PYMULTILING_INLINE vec squared_change(const Sums& s, float b0) {
  const vec change = (s.b2 - 2.0f * s.m * s.b1 + s.m * s.m * b0) / ((1.0f + s.m) * (1.0f + s.m));
  return change < 0.0f ? vec{} : change;  // what rounding left of 0; NaN stays
}

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

PYMULTILING_INLINE void add(Sums& to, const Sums& s) {
  to.m += s.m;
  to.b1 += s.b1;
  to.b2 += s.b2;
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
  return squared_change(sweep_row(change, [](vec a, vec t, int64_t) { return weighted_change(a, t); }),
                        change.row.squares);
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
