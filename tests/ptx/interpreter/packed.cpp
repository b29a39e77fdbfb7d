// Arithmetic of numbers of 16 bits, alone and in pairs.
#include <cmath>

#include "lanes.h"

namespace ptx {
namespace {

using std::string;

// Applies a function of three numbers to both halves.
template <class T, class F>
uint32_t both(uint32_t a, uint32_t b, uint32_t c, F function) {
  uint32_t result = 0;
  for (int k = 0; k < 32; k += 16)
    result |= uint32_t(function(T{uint16_t(a >> k)}, T{uint16_t(b >> k)}, T{uint16_t(c >> k)}).bits) << k;
  return result;
}

// Adds an instruction for one number and for pairs. F computes in float64: products of 16-bit numbers and their sums
// with a 16-bit number are exact there, so that the result is rounded only once, for bfloat16 up to its float32.
template <class T, class F>
void add(Table& t, const string& name, const string& type, F) {
  t[name + "." + type] = each([](T a, T b, T c) { return F()(a, b, c); });
  t[name + "." + type + "x2"] = each([](uint32_t a, uint32_t b, uint32_t c) { return both<T>(a, b, c, F()); });
}
template <class T, class F>
void add_2(Table& t, const string& name, const string& type, F) {
  t[name + "." + type] = each([](T a, T b) { return F()(a, b, T{0}); });
  t[name + "." + type + "x2"] = each([](uint32_t a, uint32_t b) { return both<T>(a, b, 0, F()); });
}
template <class T, class F>
void add_1(Table& t, const string& name, const string& type, F) {
  t[name + "." + type] = each([](T a) { return F()(a, T{0}, T{0}); });
  t[name + "." + type + "x2"] = each([](uint32_t a) { return both<T>(a, 0, 0, F()); });
}

// Rounds to odd, so that rounding again to fewer bits rounds once.
inline float to_odd(double x) {
  const float nearest = float(x);
  if (double(nearest) == x || nearest != nearest || std::isinf(nearest)) return nearest;
  const uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (bits & 1) return nearest;
  const bool away = std::fabs(double(nearest)) < std::fabs(x);
  return std::bit_cast<float>(away ? bits + 1 : bits - 1);
}

template <class T>
void add_type(Table& t, const string& type) {
  for (const char* rounding : {"", ".rn"}) {
    add_2<T>(t, string("add") + rounding, type, [](T a, T b, T) {
      return from_float<T>(to_odd(double(to_float(a)) + to_float(b)));
    });
    add_2<T>(t, string("sub") + rounding, type, [](T a, T b, T) {
      return from_float<T>(to_odd(double(to_float(a)) - to_float(b)));
    });
    add_2<T>(t, string("mul") + rounding, type, [](T a, T b, T) {
      return from_float<T>(to_odd(double(to_float(a)) * to_float(b)));
    });
  }
  add<T>(t, "fma.rn", type, [](T a, T b, T c) {
    return from_float<T>(to_odd(std::fma(double(to_float(a)), double(to_float(b)), double(to_float(c)))));
  });
  add_1<T>(t, "neg", type, [](T a, T, T) { return T{uint16_t(a.bits ^ 0x8000)}; });
  add_1<T>(t, "abs", type, [](T a, T, T) { return T{uint16_t(a.bits & 0x7fff)}; });
}

}  // namespace

void add_packed(Table& t) {
  add_type<Brain>(t, "bf16");
  add_type<Half>(t, "f16");
}

}  // namespace ptx
