// Turns a function of one lane's values into the handler of an instruction.
#pragma once

#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

#include "halves.h"
#include "machine.h"

namespace ptx {

// What a register holds for a lane.
template <class T>
using Stored = std::conditional_t<(sizeof(T) > 4), uint64_t, uint32_t>;

template <class T>
inline T value_of(Stored<T> stored) {
  if constexpr (std::is_integral_v<T>)
    return T(stored);
  else if constexpr (sizeof(T) == 2)
    return T{uint16_t(stored)};
  else
    return std::bit_cast<T>(stored);
}

template <class T>
inline Stored<T> stored_of(T value) {
  if constexpr (std::is_integral_v<T>)
    return Stored<T>(value);
  else if constexpr (sizeof(T) == 2)
    return value.bits;
  else
    return std::bit_cast<Stored<T>>(value);
}

template <class S>
inline void write(S* to, const S* from, Mask lanes) {
  if (lanes == ALL_LANES)
    std::memcpy(to, from, LANES * sizeof(S));
  else
    for (int l = 0; l < LANES; l++) to[l] = lanes >> l & 1 ? from[l] : to[l];
}

inline void write_predicate(Warp& warp, const Instruction& i, int k, Mask value, Mask lanes) {
  if (i.operands[k] < 0) return;
  uint32_t& predicate = *warp.destination<uint32_t>(i, k);
  predicate = (predicate & ~lanes) | (value & lanes);
}

template <class F, class Call>
struct Each;

template <class F, class D, class... S>
struct Each<F, D (F::*)(S...) const> {
  static void execute(Warp& warp, const Instruction& i, Mask lanes) {
    run(warp, i, lanes, std::index_sequence_for<S...>());
  }

  template <size_t... K>
  static void run(Warp& warp, const Instruction& i, Mask lanes, std::index_sequence<K...>) {
    if constexpr (std::is_same_v<D, bool>) {
      Mask value = 0;
      for (int l = 0; l < LANES; l++) value |= Mask(F()(value_of<S>(warp.source<Stored<S>>(i, K)[l])...)) << l;
      write_predicate(warp, i, 0, value, lanes);
      if (i.destinations > 1) write_predicate(warp, i, 1, ~value, lanes);
    } else {
      alignas(64) Stored<D> results[LANES];
      for (int l = 0; l < LANES; l++) results[l] = stored_of<D>(F()(value_of<S>(warp.source<Stored<S>>(i, K)[l])...));
      write(warp.destination<Stored<D>>(i, 0), results, lanes);
    }
  }
};

// Returns the handler that applies a function without captures to every lane. Its parameters and its result are the
// types of the operands. A result of type bool is a predicate.
template <class F>
constexpr Handler each(F) {
  return &Each<F, decltype(&F::operator())>::execute;
}

}  // namespace ptx
