// The change of one query row's scores, for LANES neurons n, and the row's sums over keys j that give its importance:
//
//   u = 2^t - 1,  m = sum_j A u,  b0 = sum_j A^2,  b1 = sum_j A^2 u,  b2 = sum_j A^2 u^2
//   sum_j (A'_j - A_j)^2 = (b2 - 2 m b1 + m^2 b0) / (1 + m)^2
//
// t is the change of the scores times log2(e), less its mean under A or something near it: the identity holds for any
// shift of t, but only keeps its digits where m is small.
#pragma once

#include "functions.h"
#include "qk_importance.h"

namespace pymultiling::PYMULTILING_LEVEL {

constexpr int64_t PEAKS = 16;

// Sums past these limits have lost digits: there is a slower way for them.
constexpr float LARGEST_EXPONENT = 100.0f;  // of 2, where an A below the normal numbers (2^-126) is still negligible
constexpr float LARGEST_SUM = 1e30f;
constexpr float SMALLEST_MEAN = -0.5f;          // of 2^t - 1: 1 + m keeps its digits
constexpr float LARGEST_CANCELLATION = 100.0f;  // costs float32 two of its seven digits

enum class Gain { none, row, key };

// One row's values over the keys, and its range of keys.
struct Row {
  int64_t first, last;       // keys [first, last)
  const float* probability;  // A
  const float* log2_probability;
  const float* score;          // S, before a soft cap; only where there is a gain or a cap
  const float *below, *above;  // 1 / (1 + e^(2x)) and 1 / (1 + e^(-2x)), x = S / softcap cut to +-20
  const float* cut;            // 2 log2(e) times what was cut off
  float squares;               // b0
  float largest_score;
  int64_t peaks;  // the keys with A > 1 / PEAKS
  int64_t peak[PEAKS];
  float other_slopes;  // over the keys that are no peaks: sum of A c, c the cap's slope at S (1 without a cap)
  float other_scores;  // and sum of A c S
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

// sum_j (A'_j - A_j)^2 before the division by (1 + m)^2.
PYMULTILING_INLINE vec unnormed_change(const Sums& s, float b0) {
  const vec change = s.b2 - 2.0f * s.m * s.b1 + s.m * s.m * b0;
  return change < 0.0f ? vec{} : change;  // what rounding left of 0; NaN stays
}

PYMULTILING_INLINE vec squared_change(const Sums& s, float b0) {
  return unnormed_change(s, b0) / ((1.0f + s.m) * (1.0f + s.m));
}

PYMULTILING_INLINE void add(Sums& to, const Sums& s) {
  to.m += s.m;
  to.b1 += s.b1;
  to.b2 += s.b2;
}

}  // namespace pymultiling::PYMULTILING_LEVEL
