// Matrices (tokens, N), and how kernels divide them.
#pragma once

#include <cstdint>

namespace pymultiling {

struct Matrix {  // float32 or bfloat16; rows `stride` elements apart, each row contiguous
  const void* data;
  int64_t stride;
};

// Rows [begin, end) that belong to one document, or to none (-1). Never longer than RUN rows: sums over a run are
// float32 in registers, sums of runs float64, so long documents keep their digits.
struct Run {
  int64_t begin, end, document;
};
constexpr int64_t RUN = 128;

// Columns that one task of an operator on (tokens, N) handles; a task owns its columns for all tokens, so results do
// not depend on the number of threads.
constexpr int64_t COLUMNS = 128;

}  // namespace pymultiling
