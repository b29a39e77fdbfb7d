// The change of one query row's attention scores for LANES neurons n, and the row's sums over keys j that give its
// importance:
//
//     u = 2^t - 1,  m = sum_j A u,  b0 = sum_j A^2,  b1 = sum_j A^2 u,  b2 = sum_j A^2 u^2
//     sum_j (A'_j - A_j)^2 = (b2 - 2 m b1 + m^2 b0) / (1 + m)^2
//
// t is the change of the attention scores times log2(e), minus approximately its mean under A. The identity holds for
// any shift of t, but it is numerically precise only where m is small.
#pragma once

#include "functions.h"
#include "qk_importance.h"

namespace pymultiling::PYMULTILING_LEVEL {

constexpr int64_t PEAKS = 16;

// Sums beyond these limits have lost precision. They are computed again in a slower way.
constexpr float LARGEST_EXPONENT = 100.0f;  // of 2; an A below the normal numbers (2^-126) is then still negligible
constexpr float LARGEST_SUM = 1e30f;
constexpr float SMALLEST_MEAN = -0.5f;          // of 2^t - 1, so that 1 + m stays precise
constexpr float LARGEST_CANCELLATION = 100.0f;  // costs float32 two of its seven decimal digits

enum class Gain { none, row, key };

// One row's values over the keys, and the range of keys that the row attends to.
struct Row {
  int64_t first, last;       // keys [first, last)
  const float* probability;  // A
  const float* log2_probability;
  const float* score;  // S before the soft cap; set only with a gain or a soft cap
  // 1 / (1 + e^(2x)) and 1 / (1 + e^(-2x)), where x = S / softcap is clamped to [-20, 20].
  const float *sigmoid_minus, *sigmoid_plus;
  const float* excess;  // 2 log2(e) (S / softcap - x)
  float squares;        // b0
  float largest_score;
  int64_t peaks;  // number of keys with A > 1 / PEAKS
  int64_t peak[PEAKS];
  // Sum of A c over the keys that are no peaks. c is the slope of the soft cap at S, 1 without a soft cap.
  float rest_slopes;
  float rest_scores;  // sum of A c S over the same keys
};

// Computes t of one row for LANES neurons. `direct`, `cross` and `growth` are the row's coefficients; `panel` starts at
// the lanes of key 0.
template <bool CROSS, Gain GAIN, bool CAPPED>
struct Change {
  static constexpr int64_t STEP = (1 + CROSS + (GAIN == Gain::key)) * BLOCK;
  const Row& row;
  const float* panel;
  vec direct, cross, growth, constant, centre;
  float softcap;

  __attribute__((always_inline)) vec operator()(int64_t j) const {
    const float* at = panel + j * STEP;
    vec t = direct * load(at) + constant;
    if constexpr (CROSS) t = cross * load(at + BLOCK) + t;
    if constexpr (GAIN == Gain::row) t = growth * row.score[j] + t;
    if constexpr (GAIN == Gain::key) t = load(at + (1 + CROSS) * BLOCK) * row.score[j] + t;
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

  // Applies the soft cap to a change of the attention score before it, with
  //
  //     tanh(x + z) - tanh(x) = 2 a b D / (a + b (1 + D)), D = e^(2z) - 1, a = 1 / (1 + e^(2x)), b = 1 / (1 + e^(-2x)).
  //
  // D is precise near z = 0. 1 + D is computed separately, as a power, and is precise where z is very negative.
  __attribute__((always_inline)) vec capped(vec t, int64_t j) const {
    vec z = t * (2.0f / softcap) + row.excess[j];
    z = z < -100.0f ? splat(-100.0f) : z;
    z = z > 100.0f ? splat(100.0f) : z;
    const vec n = nearest(z), power = times_power_of_two(splat(1.0f), n);
    const vec part = exp2_minus_1_near_0(z - n);
    const vec d = power * part + (power - 1.0f), one_and_d = power * part + power;
    const float a = row.sigmoid_minus[j], b = row.sigmoid_plus[j];
    return (2 * LOG2_E * softcap * a * b) * d / (a + b * one_and_d);
  }
};

struct Sums {
  vec m{}, b1{}, b2{};
};

// Returns sum_j (A'_j - A_j)^2 before the division by (1 + m)^2.
PYMULTILING_INLINE vec unnormalized_change(const Sums& s, float b0) {
  const vec change = s.b2 - 2.0f * s.m * s.b1 + s.m * s.m * b0;
  return change < 0.0f ? vec{} : change;  // rounding can make it slightly negative; NaN stays NaN
}

PYMULTILING_INLINE vec squared_change(const Sums& s, float b0) {
  return unnormalized_change(s, b0) / ((1.0f + s.m) * (1.0f + s.m));
}

PYMULTILING_INLINE void add(Sums& to, const Sums& s) {
  to.m += s.m;
  to.b1 += s.b1;
  to.b2 += s.b2;
}

}  // namespace pymultiling::PYMULTILING_LEVEL
