// Access to memory, with its checks: bounds, alignment and races.
#pragma once

#include "machine.h"

namespace ptx {

// Who accesses memory.
struct Who {
  Warp& warp;
  int lane;
  int line;
};

// Generic addresses from here on are in the memory of a lane that no other one sees. As in encode.py.
constexpr uint64_t LOCAL = uint64_t(1) << 60;

// Each function returns where the bytes are, or null if they are outside of the memory. It must be called before a
// write with the new bytes in `value`: to write what is there already is no race.
uint8_t* read_shared(Who, uint32_t at, int bytes);
uint8_t* write_shared(Who, uint32_t at, int bytes, const void* value);
// These take generic addresses too.
uint8_t* read_global(Who, uint64_t at, int bytes);
uint8_t* write_global(Who, uint64_t at, int bytes, const void* value);
uint8_t* atomic_global(Who, uint64_t at, int bytes);

// A copy by cp.async may arrive from now on, or has arrived.
void begin_copy(Who, uint32_t at, int bytes);
void end_copy(Who, uint32_t at, int bytes);

// A product may read shared memory from now on, or reads no more.
void begin_product(Who, uint32_t at, int bytes);
void end_product(Who, uint32_t at, int bytes);

// An atomic operation takes over what others have released at this address (acquire), or makes it known after the next
// fence, and releases what the thread knows, or what it knew at its last fence.
void acquire(Warp&, uint64_t at, bool ordered);
void release(Warp&, uint64_t at, bool ordered);
void fence(Warp&);

}  // namespace ptx
