// The library's interface to Python: opcodes by name, and a launch.
#include <cstring>

#include "machine.h"

namespace ptx {

const Table& opcodes() {
  static const Table table = [] {
    Table t;
    add_integers(t), add_floats(t), add_packed(t), add_conversions(t), add_moves(t);
    add_loads_and_stores(t), add_copies(t), add_collectives(t), add_matrices(t), add_wgmma(t);
    t["nothing"] = [](Warp&, const Instruction&, Mask) {};
    return t;
  }();
  return table;
}

namespace {

// An instruction as interpreter.py encodes it.
struct Encoded {
  int32_t opcode, kind, guard, negated, destinations, sources, operands, size, flags, target, meeting, line;
  int64_t immediate;
};

std::vector<const Table::value_type*> numbered() {
  std::vector<const Table::value_type*> entries;
  for (const auto& entry : opcodes()) entries.push_back(&entry);
  return entries;
}

}  // namespace
}  // namespace ptx

using namespace ptx;

extern "C" {

// The number of opcodes, and the name of one.
int opcode_count() { return int(opcodes().size()); }
const char* opcode_name(int number) {
  static const auto entries = numbered();
  return entries[number]->first.c_str();
}

// A launch as interpreter.py describes it.
struct Description {
  const Encoded* code;
  const int32_t* operands;
  const Constant* constants;
  const uint8_t* parameters;
  const Range* ranges;
  int64_t code_count, constant_count, parameter_bytes, range_count;
  int64_t register_bytes, local_bytes, shared_bytes;
  int32_t grid[3], threads, shared_piece, global_piece;
  Options options;
  uint64_t executed;  // result
  char log[16384];    // result
};

// Runs a launch. Returns the number of complaints.
int run_launch(Description* d) {
  static const auto entries = numbered();
  Launch launch{};
  launch.code.reserve(d->code_count);
  for (int64_t k = 0; k < d->code_count; k++) {
    const Encoded& e = d->code[k];
    launch.code.push_back(
        {entries[e.opcode]->second, Kind(e.kind), e.guard, e.negated != 0, e.destinations, e.sources,
         d->operands + e.operands, e.size, e.flags, e.immediate, e.target, e.meeting, e.line});
  }
  launch.parameters.assign(d->parameters, d->parameters + d->parameter_bytes);
  launch.ranges.assign(d->ranges, d->ranges + d->range_count);
  launch.options = d->options;
  std::memcpy(launch.grid, d->grid, sizeof launch.grid);
  launch.threads = d->threads;
  launch.shared_piece = d->shared_piece, launch.global_piece = d->global_piece;
  launch.register_bytes = d->register_bytes, launch.local_bytes = d->local_bytes;
  launch.constants.assign(d->constants, d->constants + d->constant_count);
  if (launch.options.races)
    for (const Range& range : launch.ranges)
      launch.shadows.emplace_back((range.end - 1) / launch.global_piece - range.begin / launch.global_piece + 1);
  run(launch, d->shared_bytes);
  d->executed = launch.executed;
  std::strncpy(d->log, launch.log.c_str(), sizeof d->log - 1);
  return launch.complaints;
}
}
