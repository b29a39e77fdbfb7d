#include "memory.h"

#include <cstring>

namespace ptx {
namespace {

// Whether an access is ordered before what the thread does now, if the access was made by its own program.
bool happened_before(const Access& access, const Who& who) {
  return access.thread == NOBODY || access.thread == who.warp.thread(who.lane) ||
         covers(who.warp.clock.known, access.warps, access.time);
}

bool happened_before(const Access& access, int program, const Who& who) {
  if (program == NOBODY) return true;
  if (program == who.warp.block->id) return happened_before(access, who);
  const auto found = who.warp.clock.foreign.find(program);
  return found != who.warp.clock.foreign.end() && covers(found->second, access.warps, access.time);
}

Access access_by(const Who& who) {
  return {who.warp.thread(who.lane), 1u << who.warp.id, who.warp.clock.now, who.line};
}

// Adds a read to those that did not happen before it.
void add_read(Access& reads, const Who& who, bool earlier_happened_before) {
  const Access read = access_by(who);
  if (earlier_happened_before)
    reads = read;
  else
    reads = {
        reads.thread == read.thread ? read.thread : SEVERAL, reads.warps | read.warps, std::max(reads.time, read.time),
        read.line};
}

void complain_of_race(
    const Who& who, const char* what, const char* where, uint64_t at, const char* other, const Access& access) {
  who.warp.launch().complain(
      who.line,
      "race: program %d, thread %d %s %s memory at %#llx, %s at line %d by thread %d, and nothing orders the two",
      who.warp.block->id, who.warp.thread(who.lane), what, where, (unsigned long long)at, other, access.line,
      access.thread);
}

bool fits_shared(const Who& who, uint32_t at, int bytes) {
  Launch& launch = who.warp.launch();
  if (at % bytes) launch.complain(who.line, "misaligned: %d bytes of shared memory at %#x", bytes, at);
  if (uint64_t(at) + bytes <= who.warp.block->shared.size()) return true;
  launch.complain(
      who.line, "out of bounds: %d bytes of shared memory at %#x, of %zu", bytes, at, who.warp.block->shared.size());
  return false;
}

// Calls a function for the shadow of each piece of shared memory.
template <class F>
void for_pieces(const Who& who, uint32_t at, int bytes, F function) {
  const Launch& launch = who.warp.launch();
  if (!launch.options.races) return;
  const uint32_t piece = launch.shared_piece;
  for (uint32_t k = at / piece; k <= (at + bytes - 1) / piece; k++) function(who.warp.block->shadow[k], k * piece);
}

void check_shared_write(const Who& who, SharedShadow& shadow, uint32_t at, bool changes) {
  if (shadow.copying)
    complain_of_race(who, "writes", "shared", at, "to which a copy may still arrive, written", shadow.write);
  if (shadow.reading)
    complain_of_race(who, "writes", "shared", at, "which a wgmma may still read, issued", shadow.read);
  const bool ordered = happened_before(shadow.write, who);
  if (changes && !ordered) complain_of_race(who, "writes", "shared", at, "written", shadow.write);
  if (changes && !happened_before(shadow.read, who)) complain_of_race(who, "writes", "shared", at, "read", shadow.read);
  if (!changes && !ordered) return;
  shadow.write = access_by(who);
  shadow.fences = who.warp.proxy_fences;
}

struct Found {
  const Range* range;
  std::vector<GlobalShadow>* shadow;
};

Found find_global(const Who& who, uint64_t at, int bytes, const char* what) {
  Launch& launch = who.warp.launch();
  if (at % bytes)
    launch.complain(who.line, "misaligned: %d bytes of global memory at %#llx", bytes, (unsigned long long)at);
  for (size_t k = 0; k < launch.ranges.size(); k++)
    if (at >= launch.ranges[k].begin && at + bytes <= launch.ranges[k].end)
      return {&launch.ranges[k], launch.options.races ? &launch.shadows[k] : nullptr};
  launch.complain(
      who.line, "out of bounds: program %d, thread %d %s %d bytes at %#llx, in no tensor", who.warp.block->id,
      who.warp.thread(who.lane), what, bytes, (unsigned long long)at);
  return {nullptr, nullptr};
}

uint8_t* find_local(const Who& who, uint64_t at, int bytes) {
  Launch& launch = who.warp.launch();
  const uint64_t offset = at - LOCAL;
  if (offset % bytes == 0 && offset + bytes <= uint64_t(launch.local_bytes))
    return &who.warp.local[who.lane * launch.local_bytes + offset];
  launch.complain(
      who.line, "out of bounds or misaligned: %d bytes of local memory at %#llx, of %lld", bytes,
      (unsigned long long)offset, (long long)launch.local_bytes);
  return nullptr;
}

template <class F>
void for_pieces(const Who& who, const Found& found, uint64_t at, int bytes, F function) {
  if (!found.shadow) return;
  const uint64_t piece = who.warp.launch().global_piece, base = found.range->begin / piece;
  for (uint64_t k = at / piece; k <= (at + bytes - 1) / piece; k++) function((*found.shadow)[k - base], k * piece);
}

}  // namespace

uint8_t* read_shared(Who who, uint32_t at, int bytes) {
  if (!fits_shared(who, at, bytes)) return nullptr;
  for_pieces(who, at, bytes, [&](SharedShadow& shadow, uint32_t place) {
    if (shadow.copying)
      complain_of_race(who, "reads", "shared", place, "to which a copy may still arrive, written", shadow.write);
    if (!happened_before(shadow.write, who)) complain_of_race(who, "reads", "shared", place, "written", shadow.write);
    add_read(shadow.read, who, happened_before(shadow.read, who));
  });
  return &who.warp.block->shared[at];
}

uint8_t* write_shared(Who who, uint32_t at, int bytes, const void* value) {
  if (!fits_shared(who, at, bytes)) return nullptr;
  uint8_t* memory = &who.warp.block->shared[at];
  const bool changes = std::memcmp(memory, value, bytes) != 0;
  for_pieces(
      who, at, bytes, [&](SharedShadow& shadow, uint32_t place) { check_shared_write(who, shadow, place, changes); });
  return memory;
}

void begin_copy(Who who, uint32_t at, int bytes) {
  if (!fits_shared(who, at, bytes)) return;
  for_pieces(who, at, bytes, [&](SharedShadow& shadow, uint32_t place) {
    check_shared_write(who, shadow, place, true);
    shadow.copying++;
  });
}

void end_copy(Who who, uint32_t at, int bytes) {
  if (uint64_t(at) + bytes > who.warp.block->shared.size()) return;
  for_pieces(who, at, bytes, [&](SharedShadow& shadow, uint32_t) {
    shadow.copying--;
    shadow.write = access_by(who);
    shadow.fences = who.warp.proxy_fences;
  });
}

void begin_product(Who who, uint32_t at, int bytes) {
  if (!fits_shared(who, at, bytes)) return;
  for_pieces(who, at, bytes, [&](SharedShadow& shadow, uint32_t place) {
    if (shadow.copying)
      complain_of_race(who, "multiplies", "shared", place, "to which a copy may still arrive, written", shadow.write);
    if (!happened_before(shadow.write, who))
      complain_of_race(who, "multiplies", "shared", place, "written", shadow.write);
    if (shadow.write.thread != NOBODY) {
      const Warp& writer = who.warp.block->warps[shadow.write.thread / LANES];
      if (writer.proxy_fences == shadow.fences && !covers(who.warp.proxy_known, shadow.write.warps, shadow.write.time))
        complain_of_race(
            who, "multiplies", "shared", place, "without a fence of the asynchronous proxy since it was written",
            shadow.write);
    }
    add_read(shadow.read, who, happened_before(shadow.read, who));
    shadow.reading++;
  });
}

void end_product(Who who, uint32_t at, int bytes) {
  if (uint64_t(at) + bytes > who.warp.block->shared.size()) return;
  for_pieces(who, at, bytes, [&](SharedShadow& shadow, uint32_t) {
    shadow.reading--;
    add_read(shadow.read, who, false);
  });
}

uint8_t* read_global(Who who, uint64_t at, int bytes) {
  if (at >= LOCAL) return find_local(who, at, bytes);
  const Found found = find_global(who, at, bytes, "reads");
  if (!found.range) return nullptr;
  const int program = who.warp.block->id;
  for_pieces(who, found, at, bytes, [&](GlobalShadow& shadow, uint64_t place) {
    if (!happened_before(shadow.write, shadow.writer, who))
      complain_of_race(who, "reads", "global", place, "written", shadow.write);
    if (shadow.reader == SEVERAL) return;
    const bool earlier = happened_before(shadow.read, shadow.reader, who);
    if (!earlier && shadow.reader != program)
      shadow.reader = SEVERAL;
    else
      add_read(shadow.read, who, earlier), shadow.reader = program;
  });
  return reinterpret_cast<uint8_t*>(at);
}

uint8_t* write_global(Who who, uint64_t at, int bytes, const void* value) {
  if (at >= LOCAL) return find_local(who, at, bytes);
  const Found found = find_global(who, at, bytes, "writes");
  if (!found.range) return nullptr;
  const bool changes = std::memcmp(reinterpret_cast<void*>(at), value, bytes) != 0;
  const int program = who.warp.block->id;
  for_pieces(who, found, at, bytes, [&](GlobalShadow& shadow, uint64_t place) {
    const bool ordered = happened_before(shadow.write, shadow.writer, who);
    // Two programs that write the same value are a mistake too: each value has one program that computes it.
    if (!ordered && (changes || shadow.writer != program))
      complain_of_race(who, "writes", "global", place, "written", shadow.write);
    if (changes && (shadow.reader == SEVERAL || !happened_before(shadow.read, shadow.reader, who)))
      complain_of_race(who, "writes", "global", place, "read", shadow.read);
    if (!changes && !ordered) return;
    shadow.write = access_by(who), shadow.writer = program;
  });
  return reinterpret_cast<uint8_t*>(at);
}

// Atomic operations do not race with each other.
uint8_t* atomic_global(Who who, uint64_t at, int bytes) {
  return find_global(who, at, bytes, "changes").range ? reinterpret_cast<uint8_t*>(at) : nullptr;
}

void acquire(Warp& warp, uint64_t at, bool ordered) {
  const auto found = warp.launch().released.find(at);
  if (found == warp.launch().released.end()) return;
  learn(ordered ? warp.clock.foreign : warp.clock.observed, found->second);
}

void release(Warp& warp, uint64_t at, bool ordered) {
  if (ordered) fence(warp);
  learn(warp.launch().released[at], warp.clock.fenced);
}

void fence(Warp& warp) {
  Clock& clock = warp.clock;
  learn(clock.foreign, clock.observed);
  clock.fenced = clock.foreign;
  Times& own = clock.fenced[warp.block->id];
  learn(own, clock.known);
  own[warp.id] = clock.now;
  // What the warp does from now on is not released.
  warp.block->time = std::max(warp.block->time, clock.now) + 1;
  clock.now = warp.block->time;
}

}  // namespace ptx
