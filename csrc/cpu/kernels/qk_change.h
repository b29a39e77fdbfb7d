// The change of one query row's attention scores for LANES neurons n, and the row's sums over its keys j, which give
// the importance:
//
//     u = 2^t - 1,  m = sum_j A u,  b0 = sum_j A^2,  b1 = sum_j A^2 u,  b2 = sum_j A^2 u^2
//     sum_j (A'_j - A_j)^2 = (b2 - 2 m b1 + m^2 b0) / (1 + m)^2
//
// A are the row's attention probabilities and A' those after zeroing neuron n. S are the attention scores. t is their
// change times log2(e), minus approximately its mean under A. The identity holds for any shift of t, but it is
// numerically precise only where m is small.
//
// An attention sink is one more key in m, whose t is 0 before the shift, but in none of the other sums.
#pragma once

#include "functions.h"
#include "qk_importance.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

constexpr int64_t PEAKS = 16;  // largest number of peaks of a row, see Row

// Sums beyond these limits have lost precision. They are computed again in a slower way.
// Largest t. An A below the normal numbers (2^-126) is stored as 0. Its A 2^t would be at most 2^-26, so it is
// negligible.
constexpr float LARGEST_EXPONENT = 100.0f;
constexpr float LARGEST_SUM = 1e30f;    // of b2
constexpr float SMALLEST_MEAN = -0.5f;  // of m, so that 1 + m stays precise
// Largest ratio of b2 to b2 - 2 m b1 + m^2 b0. At this ratio float32 loses two of its seven decimal digits.
constexpr float LARGEST_CANCELLATION = 100.0f;

// Largest |S / softcap| of which the soft cap's slope is computed, e^-60. The squares of lower slopes are 0 in float32.
constexpr float LARGEST_CAPPED = 30.0f;

// Largest change of S / softcap, for which the soft cap is a short polynomial.
constexpr float LARGEST_NARROW = 0.375f;

// Whether the growth is absent, a coefficient of the row (query neurons) or in the panel (key neurons). `centred_row`
// and `centred_key`: there is a growth and a share (LayerNorms).
enum class Growth { none, row, key, centred_row, centred_key };

constexpr bool by_row(Growth growth) { return growth == Growth::row || growth == Growth::centred_row; }
constexpr bool by_key(Growth growth) { return growth == Growth::key || growth == Growth::centred_key; }
constexpr bool is_centred(Growth growth) { return growth == Growth::centred_row || growth == Growth::centred_key; }

// One row's values over the keys, and the range of keys that the row attends to.
struct Row {
  int64_t first, last;       // keys [first, last)
  int64_t own;               // the row's own key
  const float* probability;  // A
  const float* log2_probability;
  const float* score;  // S before the soft cap, or what a growth multiplies; set only with one of them
  const float* gain;   // what a share multiplies; set only with a share
  // 1 / (1 + e^(2x)) and 1 / (1 + e^(-2x)), where x is S / softcap, LARGEST_CAPPED at most.
  const float *sigmoid_minus, *sigmoid_plus;
  const float* excess;  // 2 log2(e) (S / softcap - x)
  // tanh x, and softcap log2(e) (1 - tanh^2 x). These and the three above are set only with a soft cap.
  const float *hyperbolic, *slope;
  float squares;  // b0
  float largest_score, largest_gain;
  int64_t peaks;        // number of peaks: keys with A > 1 / PEAKS
  int64_t peak[PEAKS];  // the keys
  // Sum of A c over the keys that are no peaks. c is the slope of the soft cap at S, 1 without a soft cap.
  float rest_slopes;
  float rest_scores;  // sum of A c S over the same keys
  float rest_gains;   // sum of A c times the gain over the same keys
  bool has_sink;
  float sink, log2_sink;  // the sink's probability and its log2; set only with a sink
};

// Computes t of one row for LANES neurons. VECTORS is the number of vectors in the panel besides a growth: 2 with a
// rotation (direct and cross), 1 without (direct), 0 for neurons that only rescale the attention scores.
template <int VECTORS, Growth GROWTH, bool CAPPED>
struct Change {
  static constexpr int64_t STEP = (VECTORS + by_key(GROWTH) * (1 + is_centred(GROWTH))) * BLOCK;
  const Row& row;
  const float* panel;  // starts at the lanes of key 0
  vec direct, cross;   // the row's coefficients
  vec growth, share;   // of the row, times log2(e)
  vec constant;        // added before the soft cap
  vec centre;          // subtracted after the soft cap
  float softcap;

  __attribute__((always_inline)) vec operator()(int64_t j) const {
    const vec t = before_cap(j);
    if constexpr (CAPPED) return capped(t, j) - centre;
    return t;
  }

  __attribute__((always_inline)) vec before_cap(int64_t j) const {
    const float* at = panel + j * STEP;
    vec t = constant;
    if constexpr (VECTORS > 0) t = direct * load(at) + t;
    if constexpr (VECTORS > 1) t = cross * load(at + BLOCK) + t;
    if constexpr (by_row(GROWTH)) t = growth * row.score[j] + t;
    if constexpr (by_key(GROWTH)) t = load(at + VECTORS * BLOCK) * row.score[j] + t;
    if constexpr (GROWTH == Growth::centred_row) t = share * row.gain[j] + t;
    if constexpr (GROWTH == Growth::centred_key) t = load(at + (VECTORS + 1) * BLOCK) * row.gain[j] + t;
    return t;
  }

  // Returns t of a sink. The panel at `at` has lost the mean of its keys, which is a constant for keys, but not beside
  // a sink.
  __attribute__((always_inline)) vec of_sink(const Panel& at) const {
    if constexpr (CAPPED) return -centre;
    vec removed{};
    if constexpr (VECTORS > 0) removed = direct * load(at.mean);
    if constexpr (VECTORS > 1) removed += cross * load(at.mean + BLOCK);
    return constant - removed;
  }

  // Subtracts `by` from t.
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
  // D is precise near z = 0. 1 + D is computed separately, as a power, and is precise where z is very negative. x + z
  // is the changed S / softcap.
  __attribute__((always_inline)) vec capped(vec t, int64_t j) const {
    vec exponent = t * (2.0f / softcap) + row.excess[j];  // 2 log2(e) z
    exponent = exponent < -126.0f ? splat(-126.0f) : exponent;
    exponent = exponent > 126.0f ? splat(126.0f) : exponent;
    const vec whole = nearest(exponent), power = times_power_of_two(splat(1.0f), whole);
    const vec part = exp2_minus_1_near_0(exponent - whole);
    const vec d = power * part + (power - 1.0f), one_and_d = power * part + power;
    const float a = row.sigmoid_minus[j], b = row.sigmoid_plus[j];
    return (2 * LOG2_E * softcap * a * b) * (d / (a + b * one_and_d));  // in this order nothing overflows
  }
};

// The same with a soft cap where no change of S / softcap exceeds LARGEST_NARROW, with
//
//     tanh(x + z) - tanh(x) = (1 - tanh^2 x) w / (1 + w tanh x),  w = tanh z.
template <typename ChangeOf>
struct NarrowChange : ChangeOf {
  __attribute__((always_inline)) vec operator()(int64_t j) const {
    constexpr float c[] = {
        0.99999994f, -0.333319753f, 0.132845014f, -0.0482722335f};  // tanh(z) / z in z^2 (error 6e-08)
    const vec z = this->before_cap(j) * (1.0f / (LOG2_E * this->softcap)), w = z * polynomial(z * z, c);
    return this->row.slope[j] * w * reciprocal(1.0f + w * this->row.hyperbolic[j]) - this->centre;
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

// Returns sum_j (A'_j - A_j)^2.
PYMULTILING_INLINE vec squared_change(const Sums& s, float b0) {
  return unnormalized_change(s, b0) / ((1.0f + s.m) * (1.0f + s.m));
}

PYMULTILING_INLINE void add(Sums& to, const Sums& s) {
  to.m += s.m;
  to.b1 += s.b1;
  to.b2 += s.b2;
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
