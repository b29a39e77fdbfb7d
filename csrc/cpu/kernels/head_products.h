// Arguments of the head_products kernel. One task handles LINE dimensions of a head.
#pragma once

#include "cache_line.h"
#include "matrix.h"

namespace pymultiling {

struct HeadProducts {
  Matrix x;  // (tokens, kv_heads * group * size)
  bool bfloat16;
  int64_t kv_heads, group, size;  // group: query heads to a key/value head; size: dimensions of a head
  const Run* runs;
  int64_t run_count;
  double* products;  // (count, kv_heads, group, group, size), zero on entry
};

}  // namespace pymultiling
