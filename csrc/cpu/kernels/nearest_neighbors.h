// Arguments of the nearest_neighbors kernels.
#pragma once

#include <cstdint>

namespace pymultiling {

constexpr int64_t NEAREST_BLOCK = 192;  // points of a block; a task of nearest_pair handles two blocks

struct NearestNeighbors {
  const float* points;  // (count, size)
  const double* scale;  // (count,), factor of every point; a point with factor 0 is never a candidate here
  // (size,), subtracted after scaling. The similarity of y to x is their product less half of y's square.
  const double* centre;
  int64_t count, size, candidates;
  // (padded, size), padded to whole blocks, like the next two. PANEL points lie side by side.
  float* panels;
  float* offset;        // half of each point's square; NaN for padding and for points that cannot be candidates
  float* worst;         // the similarity of each point's worst candidate
  float* similarities;  // (count, candidates): a heap for every point, -inf on entry
  int32_t* indices;     // (count, candidates): indices of the candidates
};

}  // namespace pymultiling
