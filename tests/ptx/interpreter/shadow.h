// What was last done to a piece of memory, to find accesses that no synchronisation orders.
#pragma once

#include <cstdint>

namespace ptx {

constexpr int32_t NOBODY = -1, SEVERAL = -2;

// The last access, or several reads of which none happened before another.
struct Access {
  int32_t thread = NOBODY;
  uint32_t warps = 0;  // a bit for each warp
  uint32_t time = 0;   // of the last of them
  int32_t line = 0;
};

struct SharedShadow {
  Access write, read;
  uint32_t fences = 0;   // how many proxy fences the writing warp had executed
  uint16_t copying = 0;  // copies by cp.async that may not have arrived
  uint16_t reading = 0;  // products that may still read it
};

struct GlobalShadow {
  int32_t writer = NOBODY, reader = NOBODY;  // programs
  Access write, read;
};

}  // namespace ptx
