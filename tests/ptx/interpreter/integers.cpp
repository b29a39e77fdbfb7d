// Integers and bits.
#include <algorithm>
#include <bit>
#include <limits>

#include "lanes.h"

namespace ptx {
namespace {

using std::string;

// T is signed or unsigned. Sums and products wrap, so that they are computed without a sign.
template <class T>
void add_arithmetic(Table& t, const string& type) {
  using U = std::make_unsigned_t<T>;
  t["add." + type] = each([](U a, U b) { return U(a + b); });
  t["sub." + type] = each([](U a, U b) { return U(a - b); });
  t["mul.lo." + type] = each([](U a, U b) { return U(uint64_t(a) * b); });
  t["mad.lo." + type] = each([](U a, U b, U c) { return U(uint64_t(a) * b + c); });
  t["neg." + type] = each([](U a) { return U(0 - a); });
  t["abs." + type] = each([](T a) { return U(a < T(0) ? U(0) - U(a) : U(a)); });
  t["min." + type] = each([](T a, T b) { return std::min(a, b); });
  t["max." + type] = each([](T a, T b) { return std::max(a, b); });
  // PTX leaves division by 0 undefined. The one overflow wraps.
  t["div." + type] = each([](T a, T b) {
    return b == T(0) ? T(-1) : b == T(-1) && T(-1) < T(0) ? T(U(0) - U(a)) : T(a / b);
  });
  t["rem." + type] = each([](T a, T b) { return b == T(0) ? a : b == T(-1) && T(-1) < T(0) ? T(0) : T(a % b); });
  // A shift by more than the width is a shift by the width.
  constexpr uint32_t BITS = sizeof(T) * 8;
  t["shr." + type] = each([](T a, uint32_t b) { return b < BITS ? T(a >> b) : a < T(0) ? T(-1) : T(0); });
}

template <class T>
void add_comparisons(Table& t, const string& type) {
  t["setp.eq." + type] = each([](T a, T b) { return a == b; });
  t["setp.ne." + type] = each([](T a, T b) { return a != b; });
  t["setp.lt." + type] = each([](T a, T b) { return a < b; });
  t["setp.le." + type] = each([](T a, T b) { return a <= b; });
  t["setp.gt." + type] = each([](T a, T b) { return a > b; });
  t["setp.ge." + type] = each([](T a, T b) { return a >= b; });
}

template <class T>
void add_bits(Table& t, const string& type) {
  t["and." + type] = each([](T a, T b) { return T(a & b); });
  t["or." + type] = each([](T a, T b) { return T(a | b); });
  t["xor." + type] = each([](T a, T b) { return T(a ^ b); });
  t["not." + type] = each([](T a) { return T(~a); });
  t["shl." + type] = each([](T a, uint32_t b) { return b < sizeof(T) * 8 ? T(a << b) : T(0); });
  t["setp.eq." + type] = each([](T a, T b) { return a == b; });
  t["setp.ne." + type] = each([](T a, T b) { return a != b; });
}

// W is twice as wide as T.
template <class T, class W>
void add_wide_products(Table& t, const string& type) {
  using U = std::make_unsigned_t<W>;
  t["mul.wide." + type] = each([](T a, T b) { return W(W(a) * W(b)); });
  t["mad.wide." + type] = each([](T a, T b, W c) { return W(U(W(a) * W(b)) + U(c)); });
  t["mul.hi." + type] = each([](T a, T b) { return T(W(a) * W(b) >> sizeof(T) * 8); });
}

// The field of `length` bits from bit `start`. Only the low bytes of both count.
inline uint32_t field(uint32_t a, uint32_t start, uint32_t length) {
  start &= 255, length &= 255;
  const uint64_t mask = (uint64_t(1) << std::min(length, 32u)) - 1;
  return start < 32 ? uint32_t(a >> start & mask) : 0;
}

// Beyond the highest bit, and in bits above the field, the sign is the field's highest bit.
inline int32_t signed_field(uint32_t a, uint32_t start, uint32_t length) {
  start &= 255, length &= 255;
  if (length == 0) return 0;
  const uint64_t wide = uint64_t(int64_t(int32_t(a)));  // the sign fills what lies beyond the highest bit
  const uint64_t shifted = start < 63 ? uint64_t(int64_t(wide) >> start) : uint64_t(int64_t(wide) >> 63);
  const int unused = 64 - int(std::min(length, 32u));
  return int32_t(int64_t(shifted << unused) >> unused);
}

inline uint32_t insert_field(uint32_t field, uint32_t into, uint32_t start, uint32_t length) {
  start &= 255, length &= 255;
  if (start >= 32) return into;
  const uint32_t mask = uint32_t(((uint64_t(1) << std::min(length, 32u)) - 1) << start);
  return (into & ~mask) | (field << start & mask);
}

inline uint32_t reverse_bits(uint32_t a) {
  uint32_t result = 0;
  for (int k = 0; k < 32; k++) result |= (a >> k & 1) << (31 - k);
  return result;
}

// Selects 4 of the bytes of a and b by the digits of `selector`. Digits from 8 on repeat the byte's sign.
inline uint32_t select_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int k = 0; k < 4; k++) {
    const uint32_t digit = selector >> 4 * k & 15;
    uint32_t byte = uint32_t(bytes >> 8 * (digit & 7)) & 255;
    if (digit & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << 8 * k;
  }
  return result;
}

// Any function of three bits: bit 4a + 2b + c of `table`.
inline uint32_t logic(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (int k = 0; k < 8; k++)
    if (table >> k & 1) result |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
  return result;
}

}  // namespace

void add_integers(Table& t) {
  add_arithmetic<int16_t>(t, "s16"), add_arithmetic<uint16_t>(t, "u16");
  add_arithmetic<int32_t>(t, "s32"), add_arithmetic<uint32_t>(t, "u32");
  add_arithmetic<int64_t>(t, "s64"), add_arithmetic<uint64_t>(t, "u64");
  add_comparisons<int16_t>(t, "s16"), add_comparisons<uint16_t>(t, "u16");
  add_comparisons<int32_t>(t, "s32"), add_comparisons<uint32_t>(t, "u32");
  add_comparisons<int64_t>(t, "s64"), add_comparisons<uint64_t>(t, "u64");
  add_bits<uint16_t>(t, "b16"), add_bits<uint32_t>(t, "b32"), add_bits<uint64_t>(t, "b64");
  add_wide_products<int16_t, int32_t>(t, "s16"), add_wide_products<uint16_t, uint32_t>(t, "u16");
  add_wide_products<int32_t, int64_t>(t, "s32"), add_wide_products<uint32_t, uint64_t>(t, "u32");
  t["bfe.u32"] = each([](uint32_t a, uint32_t start, uint32_t length) { return field(a, start, length); });
  t["bfe.s32"] = each([](uint32_t a, uint32_t start, uint32_t length) { return signed_field(a, start, length); });
  t["bfi.b32"] =
      each([](uint32_t a, uint32_t b, uint32_t start, uint32_t length) { return insert_field(a, b, start, length); });
  t["brev.b32"] = each([](uint32_t a) { return reverse_bits(a); });
  t["popc.b32"] = each([](uint32_t a) { return uint32_t(std::popcount(a)); });
  t["clz.b32"] = each([](uint32_t a) { return uint32_t(std::countl_zero(a)); });
  t["bfind.u32"] = each([](uint32_t a) { return 31u - uint32_t(std::countl_zero(a)); });
  t["bfind.shiftamt.u32"] = each([](uint32_t a) { return a ? uint32_t(std::countl_zero(a)) : ~0u; });
  t["prmt.b32"] = each([](uint32_t a, uint32_t b, uint32_t c) { return select_bytes(a, b, c); });
  t["lop3.b32"] = each([](uint32_t a, uint32_t b, uint32_t c, uint32_t table) { return logic(a, b, c, table); });
  t["shf.l.wrap.b32"] =
      each([](uint32_t a, uint32_t b, uint32_t c) { return uint32_t((uint64_t(b) << 32 | a) << (c & 31) >> 32); });
  t["shf.r.wrap.b32"] =
      each([](uint32_t a, uint32_t b, uint32_t c) { return uint32_t((uint64_t(b) << 32 | a) >> (c & 31)); });
}

}  // namespace ptx
