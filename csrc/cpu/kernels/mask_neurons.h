// Arguments of the mask_neurons kernel.
#pragma once

#include "matrix.h"

namespace pymultiling {

struct MaskNeurons {
  Matrix x;          // (tokens, width)
  int element_size;  // bytes: 2 or 4
  int64_t width;
  const bool* masks;        // (sets, width)
  const int64_t* mask_ids;  // (tokens,), -1: the token is not masked
  bool replaces;  // whether selected neurons become `values`, whatever x is. A tiny scale may be 0 as a float too.
  float scale;
  const void* values;  // (width,), in x's dtype, or null
  void* result;        // (tokens, width), in x's dtype
  int64_t result_stride;
};

}  // namespace pymultiling
