// Exponentials and the error function on vectors. The coefficients are minimax fits (Lawson); comments give relative
// errors.
#pragma once

#include "vec.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

constexpr float LOG2_E = 1.44269504f;

template <int N>
PYMULTILING_INLINE vec polynomial(vec x, const float (&c)[N]) {
  vec y = splat(c[N - 1]);
#pragma GCC unroll 16
  for (int i = N - 2; i >= 0; i--) y = y * x + c[i];
  return y;
}

// Returns 2^f - 1 for |f| <= 1/2 with full relative precision near 0 (error 4e-7).
PYMULTILING_INLINE vec exp2_minus_1_near_0(vec f) {
  constexpr float c[] = {0.693147143f, 0.240223513f, 0.0555050026f, 0.00966624535f, 0.00133335182f};
  return f * polynomial(f, c);
}

// Returns 2^t - 1 for |t| < 127 with full relative precision near 0.
PYMULTILING_INLINE vec exp2_minus_1(vec t) {
  const vec n = nearest(t), power = times_power_of_two(splat(1.0f), n);
  return power * exp2_minus_1_near_0(t - n) + (power - 1.0f);
}

// Returns 2^t for t < 128, and 0 where the result is below the smallest normal number.
PYMULTILING_INLINE vec exp2(vec t) {
  vec clipped = t < -126.0f ? splat(-126.0f) : t;
  vec n = nearest(clipped);
  vec y = times_power_of_two(1 + exp2_minus_1_near_0(clipped - n), n);
  return t < -126.0f ? vec{} : y;
}

// Returns e^x with error 6e-8 besides rounding: 0 below -104, inf above 89.
PYMULTILING_INLINE vec exp(vec x) {
  constexpr float c[] = {0.500000003f, 0.16666577f, 0.0416663753f, 0.00836317526f, 0.00139411096f};
  constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  vec clipped = x < -104.0f ? splat(-104.0f) : x;
  clipped = clipped > 89.0f ? splat(89.0f) : clipped;
  vec n = nearest(clipped * LOG2_E);
  vec f = (clipped - n * ln2_high) - n * ln2_low;
  vec y = (f + f * f * polynomial(f, c)) + 1;
  vec half = nearest(n * 0.5f);  // 2^n can be out of range although y 2^n is not
  return times_power_of_two(times_power_of_two(y, half), n - half);
}

// Returns the normal distribution function (1 + erf(x / sqrt 2)) / 2. Small results keep their relative precision.
PYMULTILING_INLINE vec normal_cdf(vec x) {
  // erf(z) / z as a polynomial in z^2, |z| <= 1 (1e-9).
  constexpr float erf[] = {1.12837917f,    -0.376126258f,    0.112835851f,   -0.0268538118f,
                           0.00518832743f, -0.000801019141f, 7.85385404e-05f};
  // e^(z^2) erfc(z) as a polynomial in 1 / (z + 2), 1 <= z <= 10 (6e-9).
  constexpr float tail[] = {-4.10342529e-06f, 0.564398815f, 1.12396305f,  2.0237394f, 2.52865898f,
                            3.37097617f,      1.603832f,    -23.6851706f, 20.7081256f};
  vec z = x * 0.707106781f;
  vec inner = 0.5f + 0.5f * z * polynomial(z * z, erf);
  vec outer = 0.5f * exp(-0.5f * x * x) * polynomial(1.0f / (abs(z) + 2.0f), tail);
  outer = x < 0.0f ? outer : 1.0f - outer;
  return abs(z) < 1.0f ? inner : outer;
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
