// Moves between registers, predicates, special registers.
#include "lanes.h"

namespace ptx {
namespace {

template <class T>
void select(Warp& warp, const Instruction& i, Mask lanes) {
  const T *a = warp.source<T>(i, 0), *b = warp.source<T>(i, 1);
  const Mask choice = *warp.source<Mask>(i, 2);
  alignas(64) T results[LANES];
  for (int l = 0; l < LANES; l++) results[l] = choice >> l & 1 ? a[l] : b[l];
  write(warp.destination<T>(i, 0), results, lanes);
}

// `size` is the bytes of the whole, the sources are its equal parts, the lowest first.
void pack(Warp& warp, const Instruction& i, Mask lanes) {
  const int bits = i.size * 8 / i.sources;
  for (int l = 0; l < LANES; l++) {
    if (!(lanes >> l & 1)) continue;
    uint64_t whole = 0;
    for (int k = 0; k < i.sources; k++) whole |= (warp.source<uint32_t>(i, k)[l] & ((1ull << bits) - 1)) << bits * k;
    if (i.size == 8)
      warp.destination<uint64_t>(i, 0)[l] = whole;
    else
      warp.destination<uint32_t>(i, 0)[l] = uint32_t(whole);
  }
}

void unpack(Warp& warp, const Instruction& i, Mask lanes) {
  const int bits = i.size * 8 / i.destinations;
  for (int l = 0; l < LANES; l++) {
    if (!(lanes >> l & 1)) continue;
    const uint64_t whole = i.size == 8 ? warp.source<uint64_t>(i, 0)[l] : warp.source<uint32_t>(i, 0)[l];
    for (int k = 0; k < i.destinations; k++)
      if (i.operands[k] >= 0) warp.destination<uint32_t>(i, k)[l] = uint32_t(whole >> bits * k & ((1ull << bits) - 1));
  }
}

template <class F>
constexpr Handler predicate(F) {
  return [](Warp& warp, const Instruction& i, Mask lanes) {
    const Mask a = *warp.source<Mask>(i, 0), b = *warp.source<Mask>(i, i.sources - 1);
    write_predicate(warp, i, 0, F()(a, b), lanes);
  };
}

// `immediate` selects the special register. The order is that of SPECIAL in encode.py.
void read_special(Warp& warp, const Instruction& i, Mask lanes) {
  const Block& block = *warp.block;
  const Launch& launch = *block.launch;
  const uint32_t same[] = {
      uint32_t(block.x),
      uint32_t(block.y),
      uint32_t(block.z),
      uint32_t(launch.grid[0]),
      uint32_t(launch.grid[1]),
      uint32_t(launch.grid[2]),
      uint32_t(launch.threads),
      uint32_t(warp.id),
      0,
      1};
  uint32_t results[LANES];
  for (int l = 0; l < LANES; l++)
    results[l] = i.immediate == 10 ? uint32_t(warp.thread(l)) : i.immediate == 11 ? uint32_t(l) : same[i.immediate];
  write(warp.destination<uint32_t>(i, 0), results, lanes);
}

}  // namespace

void add_moves(Table& t) {
  t["mov.b32"] = each([](uint32_t a) { return a; });
  t["mov.b64"] = each([](uint64_t a) { return a; });
  t["narrow"] = each([](uint64_t a) { return uint32_t(a); });
  t["widen.u"] = each([](uint32_t a) { return uint64_t(a); });
  t["widen.s"] = each([](int32_t a) { return int64_t(a); });
  t["selp.b32"] = select<uint32_t>;
  t["selp.b64"] = select<uint64_t>;
  t["pack"] = pack;
  t["unpack"] = unpack;
  t["special"] = read_special;
  t["mov.pred"] = predicate([](Mask a, Mask) { return a; });
  t["not.pred"] = predicate([](Mask a, Mask) { return ~a; });
  t["and.pred"] = predicate([](Mask a, Mask b) { return a & b; });
  t["or.pred"] = predicate([](Mask a, Mask b) { return a | b; });
  t["xor.pred"] = predicate([](Mask a, Mask b) { return a ^ b; });
}

}  // namespace ptx
