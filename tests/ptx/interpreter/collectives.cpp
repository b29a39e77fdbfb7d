// Instructions in which the lanes of a warp exchange values.
#include <algorithm>

#include "lanes.h"

namespace ptx {
namespace {

// The member mask must name the lanes that execute the instruction.
void require_members(Warp& warp, const Instruction& i, Mask lanes, Mask members) {
  if ((members & warp.alive) != lanes)
    warp.launch().complain(i.line, "lanes %08x execute an instruction for lanes %08x", lanes, members);
}

enum Shuffle { BUTTERFLY, INDEX, UP, DOWN };

// Operands: value, lane or offset, segment mask (bits 8 to 12) with clamp (bits 0 to 4), members.
template <Shuffle KIND>
void shuffle(Warp& warp, const Instruction& i, Mask lanes) {
  const uint32_t *a = warp.source<uint32_t>(i, 0), *b = warp.source<uint32_t>(i, 1), *c = warp.source<uint32_t>(i, 2);
  require_members(warp, i, lanes, warp.source<uint32_t>(i, 3)[std::countr_zero(lanes)]);
  uint32_t results[LANES] = {};
  Mask inside = 0;
  for (int l = 0; l < LANES; l++) {
    if (!(lanes >> l & 1)) continue;
    const int offset = b[l] & 31, clamp = c[l] & 31, segment = c[l] >> 8 & 31;
    const int last = (l & segment) | (clamp & ~segment), first = l & segment;
    int from = KIND == BUTTERFLY ? l ^ offset
               : KIND == INDEX   ? first | (offset & ~segment)
               : KIND == UP      ? l - offset
                                 : l + offset;
    const bool is_inside = KIND == UP ? from >= last : from <= last;
    if (!is_inside) from = l;
    if (!(lanes >> from & 1))
      warp.launch().complain(i.line, "lane %d gets a value from lane %d, which is not there", l, from);
    inside |= Mask(is_inside) << l;
    results[l] = a[from];
  }
  write(warp.destination<uint32_t>(i, 0), results, lanes);
  if (i.destinations > 1) write_predicate(warp, i, 1, inside, lanes);
}

// Combines the values of all lanes that take part.
template <class T, class F>
constexpr Handler reduce(F) {
  return [](Warp& warp, const Instruction& i, Mask lanes) {
    const uint32_t* a = warp.source<uint32_t>(i, 0);
    const int first = std::countr_zero(lanes);
    require_members(warp, i, lanes, warp.source<uint32_t>(i, 1)[first]);
    T result = T(a[first]);
    for (int l = first + 1; l < LANES; l++)
      if (lanes >> l & 1) result = F()(result, T(a[l]));
    uint32_t results[LANES];
    std::fill_n(results, LANES, uint32_t(result));
    write(warp.destination<uint32_t>(i, 0), results, lanes);
  };
}

void ballot(Warp& warp, const Instruction& i, Mask lanes) {
  require_members(warp, i, lanes, warp.source<uint32_t>(i, 1)[std::countr_zero(lanes)]);
  uint32_t results[LANES];
  std::fill_n(results, LANES, *warp.source<Mask>(i, 0) & lanes);
  write(warp.destination<uint32_t>(i, 0), results, lanes);
}

void synchronise_warp(Warp& warp, const Instruction& i, Mask lanes) {
  require_members(warp, i, lanes, warp.source<uint32_t>(i, 0)[std::countr_zero(lanes)]);
  if (lanes == warp.alive) synchronise(*warp.block, 1u << warp.id);
}

}  // namespace

void add_collectives(Table& t) {
  t["shfl.sync.bfly.b32"] = shuffle<BUTTERFLY>;
  t["shfl.sync.idx.b32"] = shuffle<INDEX>;
  t["shfl.sync.up.b32"] = shuffle<UP>;
  t["shfl.sync.down.b32"] = shuffle<DOWN>;
  t["redux.sync.add.s32"] = t["redux.sync.add.u32"] = reduce<uint32_t>([](uint32_t a, uint32_t b) { return a + b; });
  t["redux.sync.min.s32"] = reduce<int32_t>([](int32_t a, int32_t b) { return std::min(a, b); });
  t["redux.sync.max.s32"] = reduce<int32_t>([](int32_t a, int32_t b) { return std::max(a, b); });
  t["redux.sync.min.u32"] = reduce<uint32_t>([](uint32_t a, uint32_t b) { return std::min(a, b); });
  t["redux.sync.max.u32"] = reduce<uint32_t>([](uint32_t a, uint32_t b) { return std::max(a, b); });
  t["redux.sync.and.b32"] = reduce<uint32_t>([](uint32_t a, uint32_t b) { return a & b; });
  t["redux.sync.or.b32"] = reduce<uint32_t>([](uint32_t a, uint32_t b) { return a | b; });
  t["redux.sync.xor.b32"] = reduce<uint32_t>([](uint32_t a, uint32_t b) { return a ^ b; });
  t["vote.sync.ballot.b32"] = ballot;
  t["bar.warp.sync"] = synchronise_warp;
}

}  // namespace ptx
