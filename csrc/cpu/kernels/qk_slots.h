// qk_estimate: the keys that a row's sums run over (pymultiling/ops/reference/qk_estimate.py has the definition).
#pragma once

#include "qk_change.h"

namespace pymultiling::PYMULTILING_LEVEL {

constexpr int64_t SLOTS = 16;

// Slots [0, certain) are keys that weigh A in both halves, [certain, shared) keys with as many even draws as odd ones,
// whose weight is the same in both halves too; to make `shared` even, one may weigh nothing. The others are single
// draws, even and odd ones by turns.
struct Slots {
  int64_t certain, shared, count;
  float step;  // the weight of one draw in its half
  int32_t key[SLOTS];
  float probability[SLOTS];  // A
  float weight[SLOTS];       // in both halves, or in the one that the slot belongs to
  float squares[3];          // sums of weight times A: shared, even, odd
};

// rest, upto: scratch, as long as the row's probabilities.
void choose_slots(const Row& row, float* rest, int32_t* upto, Slots& slots);

}  // namespace pymultiling::PYMULTILING_LEVEL
