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
  int64_t peaks;               // the keys with A > 1 / 16
  int64_t peak[BLOCK];
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
    return (2 * 1.44269504f * softcap * a * b) * d / (a + b * one_and_d);
  }
};

struct Sums {
  vec m{}, b1{}, b2{};
};

PYMULTILING_INLINE vec squared_change(const Sums& s, float b0) {
  return (s.b2 - 2.0f * s.m * s.b1 + s.m * s.m * b0) / ((1.0f + s.m) * (1.0f + s.m));
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

// sum_j (A' - A)^2 for any t. First log2 of sum_j A 2^t with its largest exponent taken out; shifted by that, A 2^t is
// A' itself, at most 1, and m vanishes up to rounding, so that the sums of the second sweep cancel nothing.
template <typename ChangeOf>
static vec careful(ChangeOf change) {
  const Row& row = change.row;
  vec most = splat(-__builtin_inff());
  for (int64_t j = row.first; j < row.last; j++) most = max(row.log2_probability[j] + change(j), most);
  vec total{};
  for (int64_t from = row.first; from < row.last; from += KEYS) {
    vec part{};
    for (int64_t j = from; j < row.last && j < from + KEYS; j++)
      part += exp2(row.log2_probability[j] + change(j) - most);
    total += part;
  }
  vec shift = most;
  for (int i = 0; i < LANES; i++) shift[i] += __builtin_log2f(total[i]);
  Sums s;
  for (int64_t from = row.first; from < row.last; from += KEYS)
    add(s, sweep(change, from, from + KEYS < row.last ? from + KEYS : row.last, [&](vec a, vec t, int64_t j) {
          const vec d = t - shift;
          const vec small = a * exp2_minus_1_near_0(d), any = exp2(row.log2_probability[j] + d) - a;
          return abs(d) < 0.5f ? small : any;
        }));
  return squared_change(s, row.squares);
}

}  // namespace pymultiling::PYMULTILING_LEVEL
