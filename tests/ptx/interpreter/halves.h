// Numbers of 16 bits, and float32 with subnormal numbers flushed to zero.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace ptx {

struct Brain {  // bfloat16
  uint16_t bits;
};
struct Half {  // IEEE's binary16
  uint16_t bits;
};

inline float to_float(Brain x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }

inline float to_float(Half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  // Exponent 31 is infinity or NaN. Exponent 0 is a multiple of 2^-24.
  const float small = float(rest) * 0x1p-24f;
  const uint32_t normal = (rest << 13) + (rest >= 0x7c00 ? (255u - 31) << 23 : (127u - 15) << 23);
  return std::bit_cast<float>(sign | (rest < 0x400 ? std::bit_cast<uint32_t>(small) : normal));
}

// Rounds to nearest, ties to even. NaN becomes the NaN that GPUs make.
inline Brain to_brain(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return {x != x ? uint16_t(0x7fff) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline Half to_half(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return {0x7fff};
  if (rest >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // rounds beyond the largest number, 65504
  if (rest < 0x38800000) {                                   // below the smallest normal number: a multiple of 2^-24
    const float scaled = std::bit_cast<float>(rest) * 0x1p24f;
    return {uint16_t(sign | uint32_t(std::nearbyint(scaled)))};
  }
  return {uint16_t(sign | ((rest - ((127u - 15) << 23) + 0xfff + (rest >> 13 & 1)) >> 13))};
}

template <class T>
T from_float(float);
template <>
inline Brain from_float<Brain>(float x) {
  return to_brain(x);
}
template <>
inline Half from_float<Half>(float x) {
  return to_half(x);
}

inline float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// tf32 has the exponent of float32 and 10 bits of its fraction.
inline float to_tf32(uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000u); }

}  // namespace ptx
