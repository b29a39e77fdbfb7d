// Loads, stores and atomic operations. `size` is the bytes of an element, `immediate` an offset to the address.
#include <algorithm>
#include <cstring>

#include "lanes.h"
#include "memory.h"

namespace ptx {
namespace {

// Flags of these instructions, as in encode.py.
constexpr int SIGNED = 1, WIDE = 2, ACQUIRE = 4, RELEASE = 8;

// WIDE: the registers hold 8 bytes for a lane.
void put(Warp& warp, const Instruction& i, int k, int lane, const uint8_t* from) {
  if (i.operands[k] < 0) return;
  uint64_t value = 0;
  std::memcpy(&value, from, i.size);
  if (i.flags & SIGNED) {
    const int unused = 64 - 8 * i.size;
    value = uint64_t(int64_t(value << unused) >> unused);
  }
  if (i.flags & WIDE)
    warp.destination<uint64_t>(i, k)[lane] = value;
  else
    warp.destination<uint32_t>(i, k)[lane] = uint32_t(value);
}

uint64_t get(Warp& warp, const Instruction& i, int k, int lane) {
  return i.flags & WIDE ? warp.source<uint64_t>(i, k)[lane] : warp.source<uint32_t>(i, k)[lane];
}

template <class F>
void for_lanes(Mask lanes, F function) {
  for (; lanes; lanes &= lanes - 1) function(std::countr_zero(lanes));
}

void load_shared(Warp& warp, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int l) {
    const uint32_t at = warp.source<uint32_t>(i, 0)[l] + uint32_t(i.immediate);
    const uint8_t* from = read_shared({warp, l, i.line}, at, i.size * i.destinations);
    for (int k = 0; from && k < i.destinations; k++) put(warp, i, k, l, from + k * i.size);
  });
}

// The bytes that a lane stores.
struct StoredBytes {
  StoredBytes(Warp& warp, const Instruction& i, int lane) : size(i.size * (i.sources - 1)) {
    for (int k = 1; k < i.sources; k++) {
      const uint64_t value = get(warp, i, k, lane);
      std::memcpy(bytes + (k - 1) * i.size, &value, i.size);
    }
  }

  const int size;
  uint8_t bytes[32];
};

void store_shared(Warp& warp, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int l) {
    const uint32_t at = warp.source<uint32_t>(i, 0)[l] + uint32_t(i.immediate);
    const StoredBytes stored(warp, i, l);
    if (uint8_t* to = write_shared({warp, l, i.line}, at, stored.size, stored.bytes))
      std::memcpy(to, stored.bytes, stored.size);
  });
}

void load_global(Warp& warp, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int l) {
    const uint64_t at = warp.source<uint64_t>(i, 0)[l] + i.immediate;
    const int bytes = i.size * i.destinations;
    const Who who{warp, l, i.line};
    const uint8_t* from = i.flags & ACQUIRE ? atomic_global(who, at, bytes) : read_global(who, at, bytes);
    for (int k = 0; from && k < i.destinations; k++) put(warp, i, k, l, from + k * i.size);
    if (i.flags & ACQUIRE) acquire(warp, at, true);
  });
}

void store_global(Warp& warp, const Instruction& i, Mask lanes) {
  for_lanes(lanes, [&](int l) {
    const uint64_t at = warp.source<uint64_t>(i, 0)[l] + i.immediate;
    const StoredBytes stored(warp, i, l);
    if (uint8_t* to = write_global({warp, l, i.line}, at, stored.size, stored.bytes))
      std::memcpy(to, stored.bytes, stored.size);
  });
}

// The address is an offset in all parameters.
void load_parameter(Warp& warp, const Instruction& i, Mask lanes) {
  const std::vector<uint8_t>& parameters = warp.launch().parameters;
  for_lanes(lanes, [&](int l) {
    const uint64_t at = warp.source<uint64_t>(i, 0)[l] + i.immediate;
    if (at + i.size * i.destinations > parameters.size())
      return warp.launch().complain(i.line, "out of bounds: the parameters have %zu bytes", parameters.size());
    for (int k = 0; k < i.destinations; k++) put(warp, i, k, l, &parameters[at + k * i.size]);
  });
}

template <class T, class F>
constexpr Handler atomic(F) {
  return [](Warp& warp, const Instruction& i, Mask lanes) {
    for_lanes(lanes, [&](int l) {
      const uint64_t at = warp.source<uint64_t>(i, 0)[l] + i.immediate;
      auto* place = reinterpret_cast<T*>(atomic_global({warp, l, i.line}, at, sizeof(T)));
      if (!place) return;
      acquire(warp, at, i.flags & ACQUIRE);
      release(warp, at, i.flags & RELEASE);
      const T before = *place;
      *place = F()(before, value_of<T>(warp.source<Stored<T>>(i, 1)[l]));
      if (i.destinations && i.operands[0] >= 0) warp.destination<Stored<T>>(i, 0)[l] = stored_of<T>(before);
    });
  };
}

}  // namespace

void add_loads_and_stores(Table& t) {
  t["ld.shared"] = load_shared;
  t["st.shared"] = store_shared;
  t["ld.global"] = load_global;
  t["st.global"] = store_global;
  t["ld.param"] = load_parameter;
  t["atom.add.u32"] = t["atom.add.s32"] = atomic<uint32_t>([](uint32_t a, uint32_t b) { return a + b; });
  t["atom.add.u64"] = atomic<uint64_t>([](uint64_t a, uint64_t b) { return a + b; });
  t["atom.exch.b32"] = atomic<uint32_t>([](uint32_t, uint32_t b) { return b; });
  t["atom.max.s32"] = atomic<int32_t>([](int32_t a, int32_t b) { return std::max(a, b); });
  t["atom.min.s32"] = atomic<int32_t>([](int32_t a, int32_t b) { return std::min(a, b); });
  t["fence"] = [](Warp& warp, const Instruction&, Mask) { fence(warp); };
}

}  // namespace ptx
