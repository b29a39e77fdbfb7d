// Arguments of the kernels that sum each column over every document's tokens.
#pragma once

#include "matrix.h"

namespace pymultiling {

template <typename Sum>
struct ColumnSums {
  Matrix x;  // (tokens, width)
  bool bfloat16;
  int64_t width;
  const Run* runs;  // of all tokens
  int64_t run_count;
  Sum* sums;  // (count, width), zero on entry
};

}  // namespace pymultiling
