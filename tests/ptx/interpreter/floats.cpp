// Floating-point numbers of 32 and 64 bits.
#include <cmath>

#include "approximate.h"
#include "lanes.h"

namespace ptx {
namespace {

using std::string;

// Comparisons of which the second group is also true if a number is NaN. `F` turns the operands into numbers.
template <class T, class F>
void add_comparisons(Table& t, const string& type, F) {
  t["setp.eq." + type] = each([](T a, T b) { return F()(a) == F()(b); });
  t["setp.ne." + type] = each([](T a, T b) { return F()(a) < F()(b) || F()(a) > F()(b); });
  t["setp.lt." + type] = each([](T a, T b) { return F()(a) < F()(b); });
  t["setp.le." + type] = each([](T a, T b) { return F()(a) <= F()(b); });
  t["setp.gt." + type] = each([](T a, T b) { return F()(a) > F()(b); });
  t["setp.ge." + type] = each([](T a, T b) { return F()(a) >= F()(b); });
  t["setp.equ." + type] = each([](T a, T b) { return !(F()(a) < F()(b) || F()(a) > F()(b)); });
  t["setp.neu." + type] = each([](T a, T b) { return !(F()(a) == F()(b)); });
  t["setp.ltu." + type] = each([](T a, T b) { return !(F()(a) >= F()(b)); });
  t["setp.leu." + type] = each([](T a, T b) { return !(F()(a) > F()(b)); });
  t["setp.gtu." + type] = each([](T a, T b) { return !(F()(a) <= F()(b)); });
  t["setp.geu." + type] = each([](T a, T b) { return !(F()(a) < F()(b)); });
  t["setp.num." + type] = each([](T a, T b) { return F()(a) == F()(a) && F()(b) == F()(b); });
  t["setp.nan." + type] = each([](T a, T b) { return F()(a) != F()(a) || F()(b) != F()(b); });
}

// -0 is smaller than +0. The number wins over NaN.
template <class T>
T smaller(T a, T b) {
  return a != a ? b : b != b ? a : a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
}
template <class T>
T larger(T a, T b) {
  return a != a ? b : b != b ? a : a == b ? (std::signbit(a) ? b : a) : a > b ? a : b;
}

template <class T>
void add_arithmetic(Table& t, const string& type) {
  for (const char* rounding : {"", "rn."}) {
    t[string("add.") + rounding + type] = each([](T a, T b) { return a + b; });
    t[string("sub.") + rounding + type] = each([](T a, T b) { return a - b; });
    t[string("mul.") + rounding + type] = each([](T a, T b) { return a * b; });
  }
  t["fma.rn." + type] = each([](T a, T b, T c) { return std::fma(a, b, c); });
  t["div.rn." + type] = each([](T a, T b) { return a / b; });
  t["rcp.rn." + type] = each([](T a) { return T(1) / a; });
  t["sqrt.rn." + type] = each([](T a) { return std::sqrt(a); });
  t["neg." + type] = each([](T a) { return -a; });
  t["abs." + type] = each([](T a) { return std::fabs(a); });
  t["min." + type] = each([](T a, T b) { return smaller(a, b); });
  t["max." + type] = each([](T a, T b) { return larger(a, b); });
  t["min.NaN." + type] = each([](T a, T b) { return a != a ? a : b != b ? b : smaller(a, b); });
  t["max.NaN." + type] = each([](T a, T b) { return a != a ? a : b != b ? b : larger(a, b); });
  add_comparisons<T>(t, type, [](T x) { return x; });
}

void add_flushing(Table& t) {
  t["add.ftz.f32"] = each([](float a, float b) { return flush(flush(a) + flush(b)); });
  t["sub.ftz.f32"] = each([](float a, float b) { return flush(flush(a) - flush(b)); });
  t["mul.ftz.f32"] = each([](float a, float b) { return flush(flush(a) * flush(b)); });
  t["fma.rn.ftz.f32"] = each([](float a, float b, float c) { return flush(std::fma(flush(a), flush(b), flush(c))); });
  t["neg.ftz.f32"] = each([](float a) { return -flush(a); });
  t["abs.ftz.f32"] = each([](float a) { return flush(std::fabs(a)); });
  t["min.ftz.f32"] = each([](float a, float b) { return smaller(flush(a), flush(b)); });
  t["max.ftz.f32"] = each([](float a, float b) { return larger(flush(a), flush(b)); });
}

inline float divided(float a, float b) { return disturb(double(a) / b, a + b, DIVISION_ERROR); }
// Beyond 2^126 the quotient by a finite number is 0.
inline float divided_approximately(float a, float b) {
  const float size = std::fabs(b);
  if (size > 0x1p126f && size < INFINITY) return std::isinf(a) ? NAN : std::copysign(0.0f, a) * std::copysign(1.0f, b);
  return divided(a, b);
}
inline float ex2(float a) { return disturb(power_of_2(a), a, EX2_ERROR); }
inline float rsqrt(float a) { return disturb(1 / std::sqrt(double(a)), a, RSQRT_ERROR); }
inline float approximate_sqrt(float a) { return disturb(std::sqrt(double(a)), a, SQRT_ERROR); }
inline float reciprocal(float a) { return disturb(1 / double(a), a, RECIPROCAL_ERROR); }
// The error is absolute between 1/2 and 2, elsewhere relative.
inline float lg2(float a) {
  const double exact = std::log2(double(a));
  if (std::fabs(exact) >= 1 || !disturbed) return disturb(exact, a, LG2_ERROR);
  return float(exact + (disturb(1, a, LG2_ERROR) - 1.0));
}

void add_approximate(Table& t) {
  t["ex2.approx.f32"] = each([](float a) { return ex2(a); });
  t["ex2.approx.ftz.f32"] = each([](float a) { return flush(ex2(flush(a))); });
  t["lg2.approx.f32"] = each([](float a) { return lg2(a); });
  t["lg2.approx.ftz.f32"] = each([](float a) { return lg2(flush(a)); });
  t["rsqrt.approx.f32"] = each([](float a) { return rsqrt(a); });
  t["rsqrt.approx.ftz.f32"] = each([](float a) { return rsqrt(flush(a)); });
  t["sqrt.approx.f32"] = each([](float a) { return approximate_sqrt(a); });
  t["sqrt.approx.ftz.f32"] = each([](float a) { return approximate_sqrt(flush(a)); });
  t["rcp.approx.ftz.f32"] = each([](float a) { return flush(reciprocal(flush(a))); });
  t["div.full.f32"] = each([](float a, float b) { return divided(a, b); });
  t["div.full.ftz.f32"] = each([](float a, float b) { return flush(divided(flush(a), flush(b))); });
  t["div.approx.f32"] = each([](float a, float b) { return divided_approximately(a, b); });
  t["div.approx.ftz.f32"] = each([](float a, float b) { return flush(divided_approximately(flush(a), flush(b))); });
}

}  // namespace

void add_floats(Table& t) {
  add_arithmetic<float>(t, "f32");
  add_arithmetic<double>(t, "f64");
  add_comparisons<Brain>(t, "bf16", [](Brain x) { return to_float(x); });
  add_comparisons<Half>(t, "f16", [](Half x) { return to_float(x); });
  add_flushing(t);
  add_approximate(t);
}

}  // namespace ptx
