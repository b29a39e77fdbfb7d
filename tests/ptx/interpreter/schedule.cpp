// Runs programs and warps in the order of a schedule, the lanes of a warp together where they take the same branch.
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "approximate.h"
#include "machine.h"

namespace ptx {
namespace {

constexpr int LOGGED = 20, STOPS_AFTER = 200;  // complaints
// A warp that runs longer than this lets others run: it may wait for them.
constexpr uint64_t TURN = 100'000;
// Memory and registers hold these bytes at the start, other ones in other schedules, so that results that depend on
// them differ. Both are NaN in all types.
constexpr uint64_t UNWRITTEN[] = {0x7ff9dead7fc1beefull, 0x7ffa5eed7fe25eedull, 0x7ffbf00d7ff3f00dull};

Mask guarded(Warp& warp, const Instruction& i, Mask lanes) {
  if (i.guard < 0) return lanes;
  const Mask predicate = *warp.lanes<Mask>(i.guard);
  return lanes & (i.negated ? ~predicate : predicate);
}

void drop_finished(std::vector<Fragment>& fragments, Mask alive) {
  while (!fragments.empty()) {
    const Fragment& last = fragments.back();
    if (last.next != last.meeting && (last.lanes & alive)) return;
    fragments.pop_back();
  }
}

void start(Block& block, Launch& launch, int id, int64_t shared_bytes) {
  block.launch = &launch;
  block.id = id;
  block.x = id % launch.grid[0], block.y = id / launch.grid[0] % launch.grid[1],
  block.z = id / launch.grid[0] / launch.grid[1];
  const uint64_t unwritten = UNWRITTEN[launch.options.schedule];
  block.shared.resize(shared_bytes);
  for (int64_t k = 0; k < shared_bytes; k++) block.shared[k] = uint8_t(unwritten >> 8 * (k % 8));
  if (launch.options.races) block.shadow.assign(shared_bytes / launch.shared_piece + 1, SharedShadow());
  block.time = 1;
  const int warps = launch.threads / LANES;
  block.warps.resize(warps);
  for (int w = 0; w < warps; w++) {
    Warp& warp = block.warps[w];
    warp.block = &block;
    warp.id = w;
    if (!warp.registers) warp.registers.reset(new (std::align_val_t(64)) uint64_t[launch.register_bytes / 8]);
    std::fill_n(warp.registers.get(), launch.register_bytes / 8, unwritten);
    warp.local.resize(LANES * launch.local_bytes);
    for (size_t k = 0; k < warp.local.size(); k++) warp.local[k] = uint8_t(unwritten >> 8 * (k % 8));
    for (const Constant& constant : launch.constants) {
      if (constant.bytes == 8)
        std::fill_n(warp.lanes<uint64_t>(constant.offset), LANES, constant.value);
      else
        std::fill_n(warp.lanes<uint32_t>(constant.offset), constant.bytes ? LANES : 1, uint32_t(constant.value));
    }
    warp.fragments = {Fragment{0, ALL_LANES, -1}};
    warp.alive = ALL_LANES;
    warp.state = State::ready;
    warp.clock = Clock();
    warp.clock.known.assign(warps, 0);
    warp.proxy_fences = 0;
    warp.proxy_known.assign(warps, 0);
    warp.open_copies.clear(), warp.copy_groups.clear(), warp.products.clear();
    warp.product_groups = 0;
    warp.fenced = false;
  }
}

// Lets the warps at a barrier go on once all its warps are there. Returns whether any did.
bool open_barriers(Block& block) {
  bool any = false;
  uint32_t seen = 0;  // barriers
  for (Warp& first : block.warps) {
    if (first.state != State::at_barrier) continue;
    const int64_t barrier = first.waits_at->immediate;
    if (seen >> barrier & 1) continue;
    seen |= 1u << barrier;
    uint32_t there = 0, running = 0;
    for (Warp& warp : block.warps) {
      const bool here = warp.state == State::at_barrier && warp.waits_at->immediate == barrier;
      there |= uint32_t(here) << warp.id;
      running |= uint32_t(warp.state != State::done) << warp.id;
    }
    const int needed = first.waits_at->size ? first.waits_at->size / LANES : std::popcount(running);
    if (std::popcount(there) < needed) continue;
    synchronise(block, there);
    for (Warp& warp : block.warps)
      if (there >> warp.id & 1) warp.state = State::ready;
    any = true;
  }
  return any;
}

bool finish_products(Block& block) {
  bool any = false;
  for (size_t first = 0; first + WARPGROUP <= block.warps.size(); first += WARPGROUP) {
    bool all = true;
    for (size_t w = first; w < first + WARPGROUP; w++) all &= block.warps[w].state == State::waits_for_wgmma;
    if (!all) continue;
    complete_products(block, int(first));
    for (size_t w = first; w < first + WARPGROUP; w++) block.warps[w].state = State::ready;
    any = true;
  }
  return any;
}

// Runs every ready warp of a program once. Returns whether the program goes on.
bool step(Block& block, uint64_t& random) {
  const Launch& launch = *block.launch;
  const int warps = int(block.warps.size());
  bool any = false;
  for (int k = 0; k < warps; k++) {
    Warp& warp = block.warps[launch.options.schedule == REVERSE ? warps - 1 - k : k];
    if (warp.state != State::ready) continue;
    any = true;
    random = random * 6364136223846793005ull + 1442695040888963407ull;
    run_warp(warp, launch.options.schedule == ROUND_ROBIN ? 1 + (random >> 58) : TURN);
  }
  if (any) return true;
  if (open_barriers(block) || finish_products(block)) return true;
  for (const Warp& warp : block.warps) {
    if (warp.state != State::done) {
      block.launch->complain(
          warp.waits_at->line, "deadlock: program %d, warp %d waits for warps that never come", block.id, warp.id);
      block.launch->stopped = true;
      break;
    }
    if (!warp.products.empty())
      block.launch->complain(warp.products[0].instruction->line, "nothing waits for this wgmma");
  }
  return false;
}

}  // namespace

void synchronise(Block& block, uint32_t warps) {
  const uint32_t time = block.time++;
  Times known(block.warps.size(), 0);
  Foreign foreign;
  for (const Warp& warp : block.warps) {
    if (!(warps >> warp.id & 1)) continue;
    learn(known, warp.clock.known);
    learn(foreign, warp.clock.foreign);
    known[warp.id] = time;
  }
  for (Warp& warp : block.warps) {
    if (!(warps >> warp.id & 1)) continue;
    warp.clock.known = known;
    if (!foreign.empty()) warp.clock.foreign = foreign;
    warp.clock.now = block.time;
  }
}

void run_warp(Warp& warp, uint64_t instructions) {
  Launch& launch = warp.launch();
  const Instruction* code = launch.code.data();
  while (!launch.stopped) {
    drop_finished(warp.fragments, warp.alive);
    if (warp.fragments.empty()) {
      warp.state = State::done;
      return;
    }
    Fragment& fragment = warp.fragments.back();
    const Mask lanes = fragment.lanes & warp.alive;
    int32_t next = fragment.next;
    bool split = false;
    while (!split && next != fragment.meeting) {
      const Instruction& i = code[next++];
      launch.executed++;
      const Mask active = guarded(warp, i, lanes);
      switch (i.kind) {
        case Kind::simple:
          if (active) i.execute(warp, i, active);
          break;
        case Kind::branch:
          if (active == lanes) {
            next = i.target;
          } else if (active) {
            fragment.next = i.meeting;
            warp.fragments.push_back({i.target, active, i.meeting});
            warp.fragments.push_back({next, lanes & ~active, i.meeting});
            split = true;
          }
          break;
        case Kind::exit:
          warp.alive &= ~active;
          fragment.next = next;
          split = active != 0;
          break;
        case Kind::barrier:
        case Kind::wait_for_wgmma:
          if (lanes != warp.alive || active != lanes)
            launch.complain(
                i.line, "lanes %08x wait, and lanes %08x of their warp do not", active, warp.alive & ~active);
          fragment.next = next;
          warp.waits_at = &i;
          warp.state = i.kind == Kind::barrier ? State::at_barrier : State::waits_for_wgmma;
          return;
      }
      if (launch.stopped) return;
      if (--instructions == 0) {
        if (!split) fragment.next = next;
        return;
      }
    }
    if (!split) fragment.next = next;
  }
}

void run(Launch& launch, int64_t shared_bytes) {
  disturbed = launch.options.disturbed;
  const int total = launch.grid[0] * launch.grid[1] * launch.grid[2];
  std::vector<std::unique_ptr<Block>> resident;
  uint64_t random = 1;
  int started = 0;
  std::vector<std::unique_ptr<Block>> unused;
  while (!launch.stopped && (started < total || !resident.empty())) {
    while (started < total && int(resident.size()) < launch.options.residents) {
      if (unused.empty()) unused.push_back(std::make_unique<Block>());
      resident.push_back(std::move(unused.back()));
      unused.pop_back();
      start(*resident.back(), launch, launch.options.schedule == REVERSE ? total - 1 - started : started, shared_bytes);
      started++;
    }
    for (size_t k = 0; k < resident.size() && !launch.stopped;) {
      if (step(*resident[k], random)) {
        k++;
        continue;
      }
      unused.push_back(std::move(resident[k]));
      resident.erase(resident.begin() + k);
    }
  }
}

void Launch::complain(int line, const char* format, ...) {
  if (++complaints > STOPS_AFTER) stopped = true;
  if (complaints > LOGGED) return;
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  log += "line " + std::to_string(line) + ": " + text + "\n";
}

}  // namespace ptx
