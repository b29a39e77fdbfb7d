// Matrices (tokens, N), and how kernels divide them into work.
#pragma once

#include <cstdint>

namespace pymultiling {

// float32 or bfloat16. Each row is contiguous; rows are `stride` elements apart.
struct Matrix {
  const void* data;
  int64_t stride;
};

// Rows [begin, end) that belong to one document, or to none (-1), at most RUN rows. Sums over a run are float32 in
// registers, sums over runs are float64, so that sums over long documents stay precise.
struct Run {
  int64_t begin, end, document;
};
constexpr int64_t RUN = 128;

// The columns that one task of an operator on (tokens, N) handles. A task handles its columns for all tokens, so
// results do not depend on the number of threads.
constexpr int64_t COLUMNS = 128;

}  // namespace pymultiling
