// cvt.
#include <cmath>
#include <limits>

#include "lanes.h"

namespace ptx {
namespace {

using std::string;

template <class D, class S>
void add_resizing(Table& t, const string& to, const string& from) {
  t["cvt." + to + "." + from] = each([](S a) { return D(a); });
}

template <class S>
void add_from_integer(Table& t, const string& from) {
  add_resizing<int8_t, S>(t, "s8", from), add_resizing<uint8_t, S>(t, "u8", from);
  add_resizing<int16_t, S>(t, "s16", from), add_resizing<uint16_t, S>(t, "u16", from);
  add_resizing<int32_t, S>(t, "s32", from), add_resizing<uint32_t, S>(t, "u32", from);
  add_resizing<int64_t, S>(t, "s64", from), add_resizing<uint64_t, S>(t, "u64", from);
  t["cvt.rn.f32." + from] = each([](S a) { return float(a); });
  t["cvt.rn.f64." + from] = each([](S a) { return double(a); });
}

// Values beyond the integer's range become its limits, and NaN becomes 0.
template <class D, class S>
D to_integer(S x) {
  if (x != x) return 0;
  if (x <= S(std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
  if (x >= S(std::numeric_limits<D>::max())) return std::numeric_limits<D>::max();
  return D(x);
}

template <class D, class S>
void add_to_integer(Table& t, const string& to, const string& from) {
  t["cvt.rzi." + to + "." + from] = each([](S a) { return to_integer<D>(std::trunc(a)); });
  t["cvt.rni." + to + "." + from] = each([](S a) { return to_integer<D>(std::rint(a)); });
  t["cvt.rmi." + to + "." + from] = each([](S a) { return to_integer<D>(std::floor(a)); });
  t["cvt.rpi." + to + "." + from] = each([](S a) { return to_integer<D>(std::ceil(a)); });
}

template <class S>
void add_from_float(Table& t, const string& from) {
  add_to_integer<int32_t, S>(t, "s32", from), add_to_integer<uint32_t, S>(t, "u32", from);
  add_to_integer<int64_t, S>(t, "s64", from), add_to_integer<uint64_t, S>(t, "u64", from);
  t["cvt.rzi." + from + "." + from] = each([](S a) { return std::trunc(a); });
  t["cvt.rni." + from + "." + from] = each([](S a) { return std::rint(a); });
  t["cvt.rmi." + from + "." + from] = each([](S a) { return std::floor(a); });
  t["cvt.rpi." + from + "." + from] = each([](S a) { return std::ceil(a); });
}

template <class H>
void add_half(Table& t, const string& type) {
  t["cvt.f32." + type] = each([](H a) { return to_float(a); });
  t["cvt.f64." + type] = each([](H a) { return double(to_float(a)); });
  t["cvt.rn." + type + ".f32"] = each([](float a) { return from_float<H>(a); });
  // The first operand becomes the upper half.
  t["cvt.rn." + type + "x2.f32"] =
      each([](float a, float b) { return uint32_t(from_float<H>(a).bits) << 16 | from_float<H>(b).bits; });
}

}  // namespace

void add_conversions(Table& t) {
  add_from_integer<int8_t>(t, "s8"), add_from_integer<uint8_t>(t, "u8");
  add_from_integer<int16_t>(t, "s16"), add_from_integer<uint16_t>(t, "u16");
  add_from_integer<int32_t>(t, "s32"), add_from_integer<uint32_t>(t, "u32");
  add_from_integer<int64_t>(t, "s64"), add_from_integer<uint64_t>(t, "u64");
  add_from_float<float>(t, "f32"), add_from_float<double>(t, "f64");
  add_half<Brain>(t, "bf16"), add_half<Half>(t, "f16");
  t["cvt.rzi.ftz.s32.f32"] = each([](float a) { return to_integer<int32_t>(std::trunc(flush(a))); });
  t["cvt.f64.f32"] = each([](float a) { return double(a); });
  t["cvt.rn.f32.f64"] = each([](double a) { return float(a); });
  // Rounds to nearest, ties away from zero. ptxas does not round infinity and NaN: their last bits are cut off.
  t["cvt.rna.tf32.f32"] = each([](uint32_t a) {
    bool finite = (a & 0x7f800000u) != 0x7f800000u;
    return (a + (finite ? 0x1000u : 0)) & 0xffffe000u;
  });
}

}  // namespace ptx
