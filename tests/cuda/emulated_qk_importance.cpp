// The kernel on emulated blocks, callable from Python.
#include <cstdio>

#include "qk_importance.cuh"  // includes emulated_block.h when a compiler for the CPU reads it

using namespace pymultiling;

// Number of floats of scratch memory that the kernel needs.
extern "C" int64_t scratch_size(const Problem* problem, int blocks) { return scratch_floats(*problem, blocks); }
// Size of the struct, to check that Python's struct has the same layout.
extern "C" int problem_bytes() { return sizeof(Problem); }

// Number of exponentials that all threads computed in the last run.
extern "C" int64_t exponentials() { return emulation::machine.exponentials; }

// Runs the kernel with shared memory that starts as NaN. Returns 0, or 1 if threads wait for a warp or a block that
// never arrives, or if the lanes of a warp diverge. It never returns if a counter does not reach its count.
extern "C" int run_qk_importance(const Problem* problem, int blocks, int mode) {
  std::vector<std::unique_ptr<char[]>> shared;
  std::vector<emulation::Block> running;
  for (int block = 0; block < blocks; block++) {
    shared.emplace_back(new char[sizeof(Shared) + 16]);
    std::memset(shared.back().get(), 0xff, sizeof(Shared) + 16);
    Shared* memory =
        reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(shared.back().get()) + 15) & ~uintptr_t(15));
    running.emplace_back(THREADS, [problem, memory, block] { run_block(*problem, *memory, block); });
  }
  try {
    emulation::run(running, mode);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
