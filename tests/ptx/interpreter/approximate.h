// Instructions that PTX calls approximate. Undisturbed they are as exact as float32 allows. Disturbed they are off by
// their largest documented error, up or down as a hash of the operands says.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace ptx {

inline bool disturbed = false;  // set by a launch

// Largest relative errors in the PTX manual. Two units in the last place are at most 2^-22.
constexpr double ROUNDING = 0x1p-24;  // to float32, which is part of the documented errors
constexpr double EX2_ERROR = 0x1p-22, LG2_ERROR = 0x1p-22, DIVISION_ERROR = 0x1p-22, SQRT_ERROR = 0x1p-23;
constexpr double RSQRT_ERROR = 0x1.125fbeep-23;  // 2^-22.9
constexpr double RECIPROCAL_ERROR = 0x1p-23;     // one unit in the last place

inline float disturb(double exact, float operand, double error) {
  if (!disturbed) return float(exact);
  const bool up = std::popcount(std::bit_cast<uint32_t>(operand) * 2654435761u) & 1;
  return float(exact * (up ? 1 + (error - ROUNDING) : 1 - (error - ROUNDING)));
}

// 2^x with an error far below that of float32. It has no calls, so that it is computed for several lanes at a time.
inline double power_of_2(double x) {
  x = x < -300 ? -300 : x > 300 ? 300 : x;  // NaN stays
  const double whole = std::rint(x), part = (x - whole) * 0.693147180559945309417;
  double sum = 1;
  for (int k = 13; k > 0; k--) sum = 1 + part / k * sum;  // the Taylor series of e^part, |part| < 0.35
  const int64_t exponent = x == x ? int64_t(whole) : 0;
  return sum * std::bit_cast<double>((exponent + 1023) << 52);
}

}  // namespace ptx
