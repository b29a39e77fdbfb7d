// What the kernels of nearest_neighbors take.
#pragma once

#include <cstdint>

namespace pymultiling {

constexpr int64_t NEAREST_BLOCK = 192;  // points that a task of nearest_neighbors takes, twice

struct NearestNeighbors {
  const float* points;   // (count, size)
  const double* scale;   // (count,), of every point; one with 0 is no neighbour here
  const double* centre;  // (size,), taken from it then; a neighbour's score is the product less half its square
  int64_t count, size, kept;
  float* panels;     // (padded, size) for whole blocks, as the next two; points side by side as the tiles take them
  float* offset;     // half the squares; NaN for padding, and for what is no neighbour
  float* least;      // the worst score kept
  float* scores;     // (count, kept): a heap for every point, -inf on entry
  int32_t* indices;  // of the scores' points
};

}  // namespace pymultiling
