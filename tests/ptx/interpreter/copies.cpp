// cp.async: copies from global to shared memory that arrive when their thread waits for them, or earlier.
#include <cstring>

#include "lanes.h"
#include "memory.h"

namespace ptx {
namespace {

void arrive(Warp& warp, const Copy& copy) {
  uint8_t* to = &warp.block->shared[copy.to];
  const Who who{warp, copy.lane, copy.line};
  const uint8_t* from = copy.read ? read_global(who, copy.from, copy.read) : nullptr;
  std::memset(to, 0, copy.bytes);
  if (from) std::memcpy(to, from, copy.read);
}

// Operands: to, from, and perhaps how many bytes are read. `size`: bytes; `flags` and `immediate`: added to the
// addresses.
void copy(Warp& warp, const Instruction& i, Mask lanes) {
  for (int l = 0; l < LANES; l++) {
    if (!(lanes >> l & 1)) continue;
    const int bytes = i.size, read = i.sources > 2 ? int(warp.source<uint32_t>(i, 2)[l]) : bytes;
    const Copy started{
        warp.source<uint32_t>(i, 0)[l] + uint32_t(i.flags),
        warp.source<uint64_t>(i, 1)[l] + i.immediate,
        read,
        bytes,
        l,
        i.line};
    if (started.from % bytes)
      warp.launch().complain(i.line, "misaligned: a copy from %#llx", (unsigned long long)started.from);
    if (read > bytes) warp.launch().complain(i.line, "a copy of %d bytes reads %d", bytes, read);
    begin_copy({warp, l, i.line}, started.to, bytes);
    if (uint64_t(started.to) + bytes > warp.block->shared.size()) continue;
    if (!warp.launch().options.late) arrive(warp, started);
    warp.open_copies.push_back(started);
  }
}

void commit(Warp& warp, const Instruction& i, Mask lanes) {
  if (lanes != warp.alive) warp.launch().complain(i.line, "some lanes of a warp commit copies, others do not");
  warp.copy_groups.push_back(std::move(warp.open_copies));
  warp.open_copies.clear();
}

// Waits until `immediate` groups at most are on their way.
void wait(Warp& warp, const Instruction& i, Mask lanes) {
  if (lanes != warp.alive) warp.launch().complain(i.line, "some lanes of a warp wait for copies, others do not");
  while (int64_t(warp.copy_groups.size()) > i.immediate) {
    for (const Copy& arrived : warp.copy_groups.front()) {
      if (warp.launch().options.late) arrive(warp, arrived);
      end_copy({warp, arrived.lane, arrived.line}, arrived.to, arrived.bytes);
    }
    warp.copy_groups.pop_front();
  }
}

void wait_for_all(Warp& warp, const Instruction& i, Mask lanes) {
  commit(warp, i, lanes);
  wait(warp, i, lanes);
}

}  // namespace

void add_copies(Table& t) {
  t["cp.async"] = copy;
  t["cp.async.commit_group"] = commit;
  t["cp.async.wait_group"] = wait;
  t["cp.async.wait_all"] = wait_for_all;
}

}  // namespace ptx
