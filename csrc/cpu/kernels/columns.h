// Sums of each column over every document's tokens.
//
// x is (tokens, width). A task handles COLUMNS columns and reads them row by row. A run's sums stay in registers for a
// full block of columns, and in L1 for the last, partial block.
#pragma once

#include "column_sums.h"
#include "instruction_set.h"
#include "vec.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

template <auto TERM, bool WHOLE, typename T, typename Sum>
static void sum_block(const ColumnSums<Sum>& a, int64_t first) {
  const T* x = static_cast<const T*>(a.x.data) + first;
  const int64_t width = WHOLE ? COLUMNS : a.width - first;
  for (int64_t r = 0; r < a.run_count; r++) {
    const Run run = a.runs[r];
    if (run.document < 0) continue;
    decltype(TERM(vec{})) sums[COLUMNS / LANES] = {};
    for (int64_t t = run.begin; t < run.end; t++) {
      for (int64_t n = 0; n < width; n += LANES) sums[n / LANES] += TERM(load_some(x + t * a.x.stride + n, width - n));
    }
    Sum* total = a.sums + run.document * a.width + first;
    for (int64_t n = 0; n < width; n++) total[n] += sums[n / LANES][n % LANES];
  }
}

template <auto TERM, typename T, typename Sum>
static void sum_typed(const ColumnSums<Sum>& a, int64_t first) {
  a.width - first < COLUMNS ? sum_block<TERM, false, T>(a, first) : sum_block<TERM, true, T>(a, first);
}

// Adds TERM(value) of every value to the sum of its document and column.
template <auto TERM, typename Sum>
static void sum_columns(const ColumnSums<Sum>& a, int64_t first) {
  a.bfloat16 ? sum_typed<TERM, uint16_t>(a, first) : sum_typed<TERM, float>(a, first);
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
