// What mask_neurons takes.
#pragma once

#include "matrix.h"

namespace pymultiling {

struct MaskNeurons {
  Matrix x;
  int element_size;  // 2 or 4 bytes
  int64_t width;
  const bool* masks;
  const int64_t* mask_ids;
  float scale;
  const void* values;  // (width,) like x, or null
  void* result;
  int64_t result_stride;
};

}  // namespace pymultiling
