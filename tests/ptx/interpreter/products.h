// Sums of products as tensor cores make them.
#pragma once

#include <algorithm>
#include <cmath>

#include "approximate.h"
#include "halves.h"

namespace ptx {

// Numbers in a 32-bit register, as factors of a product. COUNT: how many a register holds.
struct BrainFactors {
  static constexpr int COUNT = 2;
  static float get(uint32_t word, int k) { return to_float(Brain{uint16_t(word >> 16 * k)}); }
};
struct HalfFactors {
  static constexpr int COUNT = 2;
  static float get(uint32_t word, int k) { return to_float(Half{uint16_t(word >> 16 * k)}); }
};
struct Tf32Factors {
  static constexpr int COUNT = 1;
  static float get(uint32_t word, int) { return to_tf32(word); }
};

// Cuts off the bits of x below 2^last.
inline double cut(double x, int last) { return std::ldexp(std::trunc(std::ldexp(x, -last)), last); }

// Adds `count` products to `sum`. The manual promises at least float32 and leaves order and rounding open. Undisturbed
// the sum is exact and then rounded. Disturbed it is made as chips were seen to make it: the addends are aligned to the
// largest, their bits below its 25th are cut off, and so are those of the sum below its 24th.
inline float sum_products(const float* a, const float* b, int count, float sum) {
  double exact = sum;
  for (int k = 0; k < count; k++) exact += double(a[k]) * b[k];
  if (!disturbed || exact == 0 || !std::isfinite(exact)) return float(exact);
  double largest = std::fabs(double(sum));
  for (int k = 0; k < count; k++) largest = std::max(largest, std::fabs(double(a[k]) * b[k]));
  int exponent;
  std::frexp(largest, &exponent);
  double result = cut(sum, exponent - 25);
  for (int k = 0; k < count; k++) result += cut(double(a[k]) * b[k], exponent - 25);
  if (result == 0) return 0;
  std::frexp(result, &exponent);
  return float(cut(result, exponent - 24));
}

}  // namespace ptx
