// Arguments of the mask_neurons kernel.
#pragma once

#include "matrix.h"

namespace pymultiling {

struct MaskNeurons {
  Matrix x;
  int element_size;  // bytes: 2 or 4
  int64_t width;
  const bool* masks;
  const int64_t* mask_ids;
  float scale;
  const void* values;  // (width,), in x's dtype, or null
  void* result;
  int64_t result_stride;
};

}  // namespace pymultiling
