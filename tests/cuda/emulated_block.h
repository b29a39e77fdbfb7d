// The kernel's intrinsics on the CPU, for tests that compile the headers in csrc/cuda/qk_importance. Every thread of a
// block is a fiber. An operation of a whole warp or block happens when the last of its threads arrives. Fragments have
// the layout that PTX documents. The functions outside the namespace emulation are those of intrinsics.cuh in that
// folder, which describes them.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define PML_DEVICE inline
#define PML_HOST_DEVICE inline

namespace pymultiling {

// Flags of a run. TRUNCATES: tensor cores truncate their sums. DISTURBS: exponentials are off by up to their error
// bound. BACKWARDS: warps and lanes run from the last to the first.
enum Mode { TRUNCATES = 1, DISTURBS = 2, BACKWARDS = 4 };

namespace emulation {

constexpr int LANES = 32;
constexpr size_t STACK = 128 * 1024;

enum class Collective { nothing, mma_8, mma_16, exchange, vote };
enum class State { ready, in_collective, at_barrier, at_counter, done };

// A fiber starts with swapcontext() and continues with jumps, which need no system calls, unlike swapcontext().
struct Fiber {
  ucontext_t context;
  jmp_buf jump;
  bool started = false;
  std::unique_ptr<char[]> stack{new char[STACK]};
  State state = State::ready;
  std::vector<std::pair<char*, const char*>> pending_copies;
};

struct Warp {
  Collective collective = Collective::nothing;
  int arrived_lanes = 0;
  void* arguments[LANES];
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  int at_barrier = 0, done = 0;
  std::function<void()> program;
  explicit Block(int threads, std::function<void()> run)
      : fibers(threads), warps(threads / LANES), program(std::move(run)) {}
};

struct Machine {
  ucontext_t left_context;  // swapcontext() stores the scheduler here; fibers return to it with a jump instead
  jmp_buf scheduler;
  Block* block = nullptr;
  int thread = 0, blocks = 0, mode = 0;
  bool diverged = false;  // the lanes of a warp called different collective operations
  int64_t exponentials = 0;

  Fiber& fiber() { return block->fibers[thread]; }
  Warp& warp() { return block->warps[thread / LANES]; }
  void pause(State state) {
    Fiber& self = fiber();
    self.state = state;
    if (_setjmp(self.jump) == 0) _longjmp(scheduler, 1);
  }
  void resume() {
    Fiber& next = fiber();
    if (_setjmp(scheduler) != 0) return;
    if (next.started) _longjmp(next.jump, 1);
    next.started = true;
    swapcontext(&left_context, &next.context);
  }
};

inline Machine machine;

// Waits for all lanes of the warp; the last lane to arrive runs `operation` for all of them.
template <typename Arguments>
void run_collective(Collective collective, Arguments& arguments, void (*operation)(Arguments* (&)[LANES])) {
  Warp& warp = machine.warp();
  if (warp.arrived_lanes == 0) warp.collective = collective;
  machine.diverged |= warp.collective != collective;
  warp.arguments[machine.thread % LANES] = &arguments;
  if (++warp.arrived_lanes < LANES) return machine.pause(State::in_collective);
  warp.arrived_lanes = 0;
  Arguments* lanes_arguments[LANES];
  for (int lane = 0; lane < LANES; lane++) lanes_arguments[lane] = static_cast<Arguments*>(warp.arguments[lane]);
  operation(lanes_arguments);
  const int first = machine.thread / LANES * LANES;
  for (int lane = 0; lane < LANES; lane++) machine.block->fibers[first + lane].state = State::ready;
}

inline void start_fiber() {
  machine.block->program();
  machine.fiber().state = State::done;
  machine.block->done++;
  _longjmp(machine.scheduler, 1);
}

inline void prepare(Block& block) {
  for (Fiber& fiber : block.fibers) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start_fiber, 0);
  }
}

// Runs all threads of a block as far as possible, warp by warp. Returns whether any thread ran. A thread that waits for
// a counter runs in every step, to read the counter again.
inline bool step(Block& block) {
  bool any_ran = false;
  machine.block = &block;
  for (Fiber& fiber : block.fibers)
    if (fiber.state == State::at_counter) fiber.state = State::ready;
  const int warps = int(block.warps.size());
  for (int i = 0; i < warps; i++) {
    const int warp = machine.mode & BACKWARDS ? warps - 1 - i : i;
    for (bool any = true; any;) {
      any = false;
      for (int lane = 0; lane < LANES; lane++) {
        machine.thread = warp * LANES + (machine.mode & BACKWARDS ? LANES - 1 - lane : lane);
        if (machine.fiber().state != State::ready) continue;
        any = any_ran = true;
        machine.resume();
      }
    }
  }
  return any_ran;
}

// Runs several blocks in turn, one step() each, until no thread can run. Throws if threads then wait for a warp or a
// block that never arrives. It does not detect a counter that never reaches its count: then it never returns.
inline void run(std::vector<Block>& blocks, int mode) {
  machine.mode = mode;
  machine.blocks = int(blocks.size());
  machine.diverged = false;
  machine.exponentials = 0;
  for (Block& block : blocks) prepare(block);
  for (bool any_ran = true; any_ran;) {
    any_ran = false;
    for (Block& block : blocks) any_ran |= step(block);
    if (machine.diverged) throw std::runtime_error("the lanes of a warp called different collective operations");
  }
  for (Block& block : blocks)
    if (block.done != int(block.fibers.size()))
      throw std::runtime_error("deadlock: threads wait for other threads that never arrive");
}

// Returns the sum of a row's products and c. It is rounded once. In the mode TRUNCATES, all addends are truncated one
// bit below the last bit of the largest, and then the sum is truncated.
inline float accumulate(const float* products, int count, float c) {
  double sum = c, largest = std::fabs(c);
  for (int i = 0; i < count; i++) {
    sum += products[i];
    largest = std::fmax(largest, std::fabs(products[i]));
  }
  if (!(machine.mode & TRUNCATES) || !std::isfinite(sum) || sum == 0 || largest == 0) return float(sum);
  // Exponents of the last bits that are kept: of the addends, and of the sum.
  const int addend_exponent = std::ilogb(largest) - 24;
  sum = std::trunc(std::ldexp(double(c), -addend_exponent));
  for (int i = 0; i < count; i++) sum += std::trunc(std::ldexp(double(products[i]), -addend_exponent));
  if (sum == 0) return 0.0f;
  sum = std::ldexp(sum, addend_exponent);
  const int sum_exponent = std::ilogb(sum) - 23;
  return float(std::ldexp(std::trunc(std::ldexp(sum, -sum_exponent)), sum_exponent));
}

// A lane's arguments of mma_8 or mma_16: d = a b + c.
struct Product {
  float* d;
  uint32_t a[4], b[2];
  const float* c;
};

// Returns the low (i = 0) or high (i = 1) bfloat16 of a word.
inline float bfloat16_value(uint32_t word, int i) {
  const uint32_t bits = i ? word & 0xffff0000u : word << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// Computes d = a b + c for the fragments of m16n8kDEPTH: a is (16, DEPTH), b is (DEPTH, 8), c and d are (16, 8).
template <int DEPTH>
void multiply(Product* (&lanes)[LANES]) {
  float a[16][DEPTH], b[DEPTH][8], d[LANES][4];
  for (int lane = 0; lane < LANES; lane++) {
    const int g = lane / 4, column_pair = lane % 4;
    for (int i = 0; i < 2; i++)
      for (int part = 0; part < DEPTH / 8; part++) {
        const int depth = 2 * column_pair + i + 8 * part;
        a[g][depth] = bfloat16_value(lanes[lane]->a[2 * part], i);
        a[g + 8][depth] = bfloat16_value(lanes[lane]->a[2 * part + 1], i);
        b[depth][g] = bfloat16_value(lanes[lane]->b[part], i);
      }
  }
  for (int lane = 0; lane < LANES; lane++)
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      float products[DEPTH];
      for (int k = 0; k < DEPTH; k++) products[k] = a[row][k] * b[k][column];
      d[lane][i] = accumulate(products, DEPTH, lanes[lane]->c[i]);
    }
  for (int lane = 0; lane < LANES; lane++) std::memcpy(lanes[lane]->d, d[lane], sizeof d[lane]);
}

}  // namespace emulation

inline int thread_index() { return emulation::machine.thread; }
inline int block_count() { return emulation::machine.blocks; }

inline float from_bits(uint32_t x) {
  float y;
  std::memcpy(&y, &x, 4);
  return y;
}

inline uint32_t to_bits(float x) {
  uint32_t y;
  std::memcpy(&y, &x, 4);
  return y;
}

inline float flush_subnormal(float x) { return std::fabs(x) < 0x1p-126f ? 0.0f : x; }

// In the mode DISTURBS the result is off by up to 2^-22, the error bound of ex2.approx.ftz.f32, depending on x.
inline float power_of_2(float x) {
  emulation::machine.exponentials++;
  double y = std::exp2(double(flush_subnormal(x)));
  if (emulation::machine.mode & DISTURBS) {
    const uint32_t mixed = (to_bits(x) * 2654435761u) >> 8;
    y *= 1 + 0x1p-22 * (2 * (mixed / double(1 << 24)) - 1);
  }
  return flush_subnormal(float(y));
}

inline float log2_of(float x) { return float(std::log2(double(x))); }
inline float divide(float a, float b) { return a / b; }
inline float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }

inline uint32_t round_to_bfloat16(float x) {
  const uint32_t bits = to_bits(x);
  if (x != x) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline uint32_t pack(float first, float second) { return round_to_bfloat16(first) | round_to_bfloat16(second) << 16; }

inline uint32_t select_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = uint64_t(b) << 32 | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; i++) out |= uint32_t(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return out;
}

inline void mma_8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, const float (&c)[4]) {
  emulation::Product product = {d, {a0, a1}, {b}, c};
  emulation::run_collective(emulation::Collective::mma_8, product, emulation::multiply<8>);
}

inline void mma_16(
    float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1, const float (&c)[4]) {
  emulation::Product product = {d, {a0, a1, a2, a3}, {b0, b1}, c};
  emulation::run_collective(emulation::Collective::mma_16, product, emulation::multiply<16>);
}

namespace emulation {

struct Exchange {
  float x;
  int mask;
  float y;
};

inline void exchange(Exchange* (&lanes)[LANES]) {
  for (int lane = 0; lane < LANES; lane++) lanes[lane]->y = lanes[lane ^ lanes[lane]->mask]->x;
}

struct Vote {
  bool x;
  uint32_t votes;
};

inline void vote(Vote* (&lanes)[LANES]) {
  uint32_t votes = 0;
  for (int lane = 0; lane < LANES; lane++) votes |= uint32_t(lanes[lane]->x) << lane;
  for (Vote* lane : lanes) lane->votes = votes;
}

}  // namespace emulation

inline float shuffle_xor(float x, int mask) {
  emulation::Exchange arguments = {x, mask, 0};
  emulation::run_collective(emulation::Collective::exchange, arguments, emulation::exchange);
  return arguments.y;
}

// Compares the bits as unsigned integers, as redux.sync.max.u32 does: for numbers that are not negative, where NaN
// counts as the largest.
inline float max_over_lanes(float x) {
  for (int mask = 1; mask < 32; mask *= 2) {
    const float other_value = shuffle_xor(x, mask);
    if (to_bits(other_value) > to_bits(x)) x = other_value;
  }
  return x;
}

inline uint32_t ballot(bool x) {
  emulation::Vote arguments = {x, 0};
  emulation::run_collective(emulation::Collective::vote, arguments, emulation::vote);
  return arguments.votes;
}

inline int first_lane(uint32_t lanes) { return __builtin_ctz(lanes); }

inline void sync_warp() { ballot(true); }

inline void sync_block() {
  emulation::Block& block = *emulation::machine.block;
  if (++block.at_barrier < int(block.fibers.size())) return emulation::machine.pause(emulation::State::at_barrier);
  block.at_barrier = 0;
  for (emulation::Fiber& fiber : block.fibers) fiber.state = emulation::State::ready;
}

// Copies 16 bytes, from and to OFFSET bytes after the pointers. The copy happens as late as it is allowed to: in
// wait_for_copies().
template <int OFFSET>
void copy_async(void* shared, const void* global) {
  emulation::machine.fiber().pending_copies.emplace_back(
      static_cast<char*>(shared) + OFFSET, static_cast<const char*>(global) + OFFSET);
}

inline void wait_for_copies() {
  auto& pending_copies = emulation::machine.fiber().pending_copies;
  for (auto [shared, global] : pending_copies) std::memcpy(shared, global, 16);
  pending_copies.clear();
}

inline void wait_until(int* counter, int count) {
  while (*counter < count) emulation::machine.pause(emulation::State::at_counter);
}

inline int increment(int* counter) { return (*counter)++; }
inline float load_from_l2(const float* at) { return *at; }

}  // namespace pymultiling
