// What the kernels of whole_norm_importance share. whole_norm_tile.cpp has the equations.
#pragma once

#include "qk_importance.h"

namespace pymultiling {

// The neurons of a document whose changes are computed key by key.
struct Rescaling {
  int64_t query_width, key_width;  // numbers of neurons, multiples of BLOCK
  float* query_growth;             // (keys, query_width), t log2(e)
  Panel key_panel;                 // t log2(e)
  int64_t first_task;              // the document's first task
  float* sums;                     // (tasks of the document, query_width + key_width)
};

// What a tile of query rows writes for the second-order sums of a head. `keys` is the document's length.
struct WholeNorm {
  int64_t first_row;              // the first row of u and v
  float *u, *v;                   // (rows, stride), stride = keys_stride(keys): the factors of the key neurons' sum
  float* by_key;                  // (tiles of these rows, KEY_SUMS, stride): sums over the rows of the tile
  float *square, *cube, *spread;  // (keys,): the head's sums for query neurons
  enum { DIAGONAL, CUBE, ROUNDING, LARGEST, KEY_SUMS };
};

}  // namespace pymultiling
