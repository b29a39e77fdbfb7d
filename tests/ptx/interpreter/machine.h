// The state of a launch: instructions, programs (blocks of threads), warps and their registers.
//
// A register holds one value for each of the 32 lanes of a warp, in 4 bytes (types of up to 32 bits) or in 8. A
// predicate is a mask with a bit for each lane.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "clock.h"
#include "shadow.h"

namespace ptx {

constexpr int LANES = 32;
using Mask = uint32_t;
constexpr Mask ALL_LANES = ~Mask(0);
constexpr int WARPGROUP = 4;  // warps that run a wgmma together

struct Block;
struct Launch;
struct Instruction;
struct Warp;
// Executes an instruction for the lanes in the mask.
using Handler = void (*)(Warp&, const Instruction&, Mask);

// How the scheduler treats an instruction.
enum class Kind : int32_t { simple, branch, exit, barrier, wait_for_wgmma };

struct Instruction {
  Handler execute;
  Kind kind;
  int32_t guard;  // offset of the predicate, or -1
  bool negated;
  int32_t destinations, sources;
  const int32_t* operands;  // offsets of registers, the destinations first; -1 where a result is not wanted
  int32_t size, flags;      // bytes of an element in memory; meaning depends on the opcode
  int64_t immediate;
  int32_t target, meeting;  // of a branch: the next instruction, and where the lanes meet again
  int32_t line;
};

// Values of Options::schedule.
enum Schedule { IN_ORDER, REVERSE, ROUND_ROBIN };

struct Options {
  int32_t schedule;   // order of warps and programs
  int32_t late;       // asynchronous copies and products happen as late as possible, else at once
  int32_t races;      // report races
  int32_t disturbed;  // approximate instructions have their largest documented error
  int32_t residents;  // programs that run at the same time
};

// A cp.async of one lane: `read` bytes are copied, the other bytes become 0.
struct Copy {
  uint32_t to;
  uint64_t from;
  int32_t read, bytes, lane, line;
};

// A wgmma that a warp has issued. `epoch` counts the committed groups.
struct Product {
  const Instruction* instruction;
  uint64_t first, second;  // descriptors of the matrices in shared memory
  uint32_t scale;
  uint64_t group;
  bool done;
};

// Lanes that run together, until they reach `meeting`.
struct Fragment {
  int32_t next;
  Mask lanes;
  int32_t meeting;
};

enum class State { ready, at_barrier, waits_for_wgmma, done };

// Registers are aligned to a vector of the CPU.
struct FreeAligned {
  void operator()(uint64_t* registers) const { ::operator delete[](registers, std::align_val_t(64)); }
};

struct Warp {
  Block* block;
  int id;
  std::unique_ptr<uint64_t[], FreeAligned> registers;
  std::vector<uint8_t> local;  // memory of each lane that no other one sees, one lane after the other
  std::vector<Fragment> fragments;
  Mask alive;
  State state;
  const Instruction* waits_at;
  Clock clock;
  uint32_t proxy_fences;  // executed: fence.proxy.async
  Times proxy_known;      // what was known at the last of them

  std::vector<Copy> open_copies;  // not yet committed
  std::deque<std::vector<Copy>> copy_groups;
  std::vector<Product> products;
  uint64_t product_groups;  // committed
  bool fenced;              // wgmma.fence was executed since registers of a product could last be used

  template <class T>
  T* lanes(int32_t offset) {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(registers.get()) + offset);
  }
  // The registers of an operand: destination k, or source k.
  template <class T>
  T* destination(const Instruction& i, int k) {
    return lanes<T>(i.operands[k]);
  }
  template <class T>
  const T* source(const Instruction& i, int k) {
    return lanes<T>(i.operands[i.destinations + k]);
  }
  int thread(int lane) const { return id * LANES + lane; }
  Launch& launch();
};

struct Block {
  Launch* launch;
  int id, x, y, z;
  std::vector<uint8_t> shared;
  std::vector<SharedShadow> shadow;
  std::vector<Warp> warps;
  uint32_t time;  // the latest of its warps
};

// A register that holds the same value in all lanes from the start. `bytes`: of a lane, 0 of a predicate.
struct Constant {
  int32_t offset, bytes;
  uint64_t value;
};

// Memory that a launch may use: a tensor.
struct Range {
  uint64_t begin, end;
};

struct Launch {
  std::vector<Instruction> code;
  std::vector<uint8_t> parameters;
  std::vector<Constant> constants;
  std::vector<Range> ranges;
  std::vector<std::vector<GlobalShadow>> shadows;  // of each range
  std::map<uint64_t, Foreign> released;            // by atomic operations on an address
  Options options;
  int32_t grid[3];
  int32_t threads;
  int32_t shared_piece, global_piece;  // bytes of a shadow: those of the smallest access
  int64_t register_bytes, local_bytes;
  uint64_t executed;
  int complaints;
  bool stopped;
  std::string log;

  // Appends to the log. After many complaints the launch stops.
  void complain(int line, const char* format, ...) __attribute__((format(printf, 3, 4)));
};

inline Launch& Warp::launch() { return *block->launch; }

using Table = std::map<std::string, Handler>;
void add_integers(Table&);
void add_floats(Table&);
void add_packed(Table&);
void add_conversions(Table&);
void add_moves(Table&);
void add_loads_and_stores(Table&);
void add_copies(Table&);
void add_collectives(Table&);
void add_matrices(Table&);
void add_wgmma(Table&);
const Table& opcodes();

// Runs a warp until it waits or ends, or for a number of instructions (0: any number).
void run_warp(Warp&, uint64_t instructions);
void run(Launch&, int64_t shared_bytes);
// What the warps in the mask did happened before what any of them does next.
void synchronise(Block&, uint32_t warps);
// Complains unless all lanes of the warp that have not ended execute the instruction.
void require_all(Warp&, const Instruction&, Mask);
// Completes the products of a warpgroup whose four warps all wait for them.
void complete_products(Block&, int first_warp);

}  // namespace ptx
