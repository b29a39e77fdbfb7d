// Arguments of the normed_energy kernel. kernels/normed_energy.cpp has the definition.
#pragma once

#include "cache_line.h"
#include "matrix.h"

namespace pymultiling {

struct NormedEnergy {
  Matrix x;  // (tokens, heads * group * size)
  bool bfloat16;
  int64_t heads, group, size;           // heads: K; group: G, columns of a neuron; size: d
  float outputs, eps;                   // outputs: D
  const float *square, *scaled_square;  // (tokens,): r^2 and |g f|^2
  const float *pairs, *scaled_pairs;    // (heads, G, G, size): pair_weights of the grams
  double* energy;                       // (count, heads * size), zero on entry
  double* columns;                      // (count, heads * group * size), zero on entry, or null
};

// The products of a chunk of tokens with some of W's columns: those of dimensions [first, last) of one head.
struct NormedProducts {
  int64_t head, first, last;
  const Run* runs;  // of the chunk
  int64_t run_count;
  int64_t begin, rows;    // the chunk's first token and number of tokens
  const float* products;  // (group, 2, rows, last - first): f W[:, n] and (g^2 f) W[:, n]
};

}  // namespace pymultiling
