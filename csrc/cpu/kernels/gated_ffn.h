// Arguments of the gated_ffn kernel.
#pragma once

#include "matrix.h"

namespace pymultiling {

enum class Activation { silu, gelu, gelu_tanh, relu };

struct GatedFfn {
  Matrix gate, up;  // (tokens, width); up.data is null without up
  bool bfloat16;
  int64_t width;
  Activation activation;
  const Run* runs;
  int64_t run_count;
  const bool* masks;        // (sets, width), or null
  const int64_t* mask_ids;  // (tokens,), -1: the token is not masked
  void* hidden;             // (tokens, width), in gate's dtype
  double* squares;          // (count, width), zero on entry, like the next two
  int64_t* active;
  double* magnitude;
};

}  // namespace pymultiling
