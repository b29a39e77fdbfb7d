// What happened before what: vector clocks of the warps of a program, and of other programs.
//
// A program has a counter that advances when warps synchronise. An access to memory is recorded with the time of its
// warp. It happened before what another warp does if that warp knows of the first one's accesses up to this time.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <vector>

namespace ptx {

using Times = std::vector<uint32_t>;   // of each warp of a program
using Foreign = std::map<int, Times>;  // of other programs

inline void learn(Times& known, const Times& news) {
  if (known.size() < news.size()) known.resize(news.size(), 0);
  for (size_t k = 0; k < news.size(); k++) known[k] = std::max(known[k], news[k]);
}

inline void learn(Foreign& known, const Foreign& news) {
  for (const auto& [program, times] : news) learn(known[program], times);
}

// Whether all accesses of the warps in the mask up to a time are known.
inline bool covers(const Times& known, uint32_t warps, uint32_t time) {
  for (; warps; warps &= warps - 1) {
    const size_t warp = std::countr_zero(warps);
    if (warp >= known.size() || known[warp] < time) return false;
  }
  return true;
}

struct Clock {
  uint32_t now = 1;
  Times known;  // of its own warp: up to when its lanes are synchronised
  Foreign foreign;
  // A fence makes what is known ready for release by an atomic operation that is not a release itself, and makes known
  // what such operations have observed.
  Foreign fenced, observed;
};

}  // namespace ptx
