// qk_estimate: selects the keys that a row's sums run over. pymultiling/ops/reference/qk_estimate.py has the
// definition.
#pragma once

#include "qk_change.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

constexpr int64_t SLOTS = 16;

// Slots [0, certain) are keys with weight A in both halves of the draws. Slots [certain, shared) are keys with as many
// even draws as odd draws, so their weight is the same in both halves too. A slot with weight 0 may be added to make
// `shared` even. The remaining slots are single draws, alternately even and odd.
struct Slots {
  int64_t certain, shared, count;
  float step;  // the weight of one draw in its half
  int32_t key[SLOTS];
  float probability[SLOTS];  // A
  float weight[SLOTS];       // in both halves, or in the half that the slot belongs to
  float squares[3];          // sums of weight times A: shared, even, odd
};

// Selects the slots of a row. `rest` and `draw_index` are scratch memory of the length of the row's probabilities.
void choose_slots(const Row& row, float* rest, int32_t* draw_index, Slots& slots);

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
