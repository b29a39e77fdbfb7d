// nearest_neighbors: computes the similarities of all pairs of two blocks of points, and updates the best candidates of
// every point.
//
// The products stay in registers, so the matrix of products is never in memory, and one product serves both points of a
// pair. The terms of a product are added in the same order wherever the pair is in a tile, and x y = y x. So equal
// points have bit-identical similarities, and the candidates, the best by (similarity, lowest index), do not depend on
// the order of the pairs.
#include "nearest_neighbors.h"

#include "cache_line.h"
#include "instruction_set.h"
#include "vec.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

constexpr int VECTORS = 3, PANEL = VECTORS * LANES;  // PANEL points are stored side by side
constexpr int ROWS = LANES == 16 ? 8 : 4;            // 24 or 12 sums in registers
constexpr int64_t PART = 256;                        // terms of one partial sum; the partial sums are then added
static_assert(NEAREST_BLOCK % PANEL == 0 && PANEL % ROWS == 0);

void nearest_panels(const NearestNeighbors& a, int64_t block) {
  for (int64_t first = block * NEAREST_BLOCK; first < (block + 1) * NEAREST_BLOCK; first += PANEL) {
    float* panel = a.panels + first * a.size;
    // Reads whole cache lines: the rows of a panel may map to the same cache set.
    for (int64_t from = 0; from < a.size; from += LINE)
      for (int64_t i = 0; i < PANEL; i++)
        for (int64_t d = from; d < a.size && d < from + LINE; d++) {
          const int64_t point = first + i;
          panel[d * PANEL + i] =
              point < a.count ? float(a.points[point * a.size + d] * a.scale[point] - a.centre[d]) : 0.0f;
        }
    for (int64_t i = 0; i < PANEL; i++) {
      double squares = 0;
      for (int64_t d = 0; d < a.size; d++) squares += double(panel[d * PANEL + i]) * panel[d * PANEL + i];
      const bool is_candidate = first + i < a.count && a.scale[first + i] != 0;
      a.offset[first + i] = is_candidate ? float(squares / 2) : __builtin_nanf("");  // no similarity exceeds NaN
      a.worst[first + i] = is_candidate ? -__builtin_inff() : __builtin_nanf("");
    }
  }
}

// Adds to `total` the products of ROWS points with PANEL points. `rows` and `columns` point to them in their panels.
PYMULTILING_INLINE void products(const float* rows, const float* columns, int64_t size, vec (&total)[ROWS][VECTORS]) {
  for (int64_t from = 0; from < size; from += PART) {
    const int64_t end = from + PART < size ? from + PART : size;
    vec sum[ROWS][VECTORS] = {};
    for (int64_t d = from; d < end; d++) {
      vec y[VECTORS];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) y[v] = load(columns + d * PANEL + v * LANES);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) sum[r][v] += rows[d * PANEL + r] * y[v];
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) total[r][v] += sum[r][v];
  }
}

// Returns whether the first candidate is better than the other: more similar, or as similar with a lower index.
PYMULTILING_INLINE bool ranks_before(float similarity, int32_t index, float other_similarity, int32_t other_index) {
  return similarity > other_similarity || (similarity == other_similarity && index < other_index);
}

// Replaces the worst candidate of a point, the root of a heap, if `index` ranks before it.
static void offer_candidate(const NearestNeighbors& a, int64_t point, int32_t index, float similarity) {
  float* similarities = a.similarities + point * a.candidates;
  int32_t* indices = a.indices + point * a.candidates;
  if (index == point || !ranks_before(similarity, index, similarities[0], indices[0])) return;
  int64_t at = 0;
  for (int64_t child = 1; child < a.candidates; child = 2 * at + 1) {
    if (child + 1 < a.candidates &&
        ranks_before(similarities[child], indices[child], similarities[child + 1], indices[child + 1]))
      child++;
    if (!ranks_before(similarity, index, similarities[child], indices[child])) break;
    similarities[at] = similarities[child];
    indices[at] = indices[child];
    at = child;
  }
  similarities[at] = similarity;
  indices[at] = index;
  a.worst[point] = similarities[0];
}

template <typename Visit>
PYMULTILING_INLINE void for_each_lane(ivec hits, Visit visit) {
  for (uint32_t lanes = lane_bits(hits); lanes != 0; lanes &= lanes - 1) visit(__builtin_ctz(lanes));
}

// Updates the candidates of all points of two blocks, which may be the same block.
void nearest_pair(const NearestNeighbors& a, int64_t first_block, int64_t second_block) {
  const ivec different = ivec{} - (first_block != second_block);  // within one block every pair occurs twice
  for (int64_t j = second_block * NEAREST_BLOCK; j < (second_block + 1) * NEAREST_BLOCK; j += PANEL)
    for (int64_t i = first_block * NEAREST_BLOCK; i < (first_block + 1) * NEAREST_BLOCK; i += ROWS) {
      vec product[ROWS][VECTORS] = {};
      products(a.panels + i / PANEL * PANEL * a.size + i % PANEL, a.panels + j * a.size, a.size, product);
      for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) {
          const int64_t row = i + r, column = j + v * LANES;
          const vec to_row = product[r][v] - load(a.offset + column), to_column = product[r][v] - a.offset[row];
          const ivec better_for_row = to_row >= a.worst[row],
                     better_for_column = (to_column >= load(a.worst + column)) & different;
          if (!any(better_for_row | better_for_column)) continue;
          for_each_lane(better_for_row, [&](int lane) { offer_candidate(a, row, column + lane, to_row[lane]); });
          for_each_lane(better_for_column, [&](int lane) { offer_candidate(a, column + lane, row, to_column[lane]); });
        }
    }
}

// Returns |x - y|^2 / 2 of two scaled points.
double half_square(const NearestNeighbors& a, int64_t first, int64_t second) {
  const float *x = a.points + first * a.size, *y = a.points + second * a.size;
  const double x_scale = a.scale[first], y_scale = a.scale[second];
  constexpr int PARTS = 16;  // independent sums, so that the compiler vectorises
  double part[PARTS] = {};
  const auto add = [&](int64_t d, int i) {
    const double difference = x[d] * x_scale - y[d] * y_scale;
    part[i] += difference * difference;
  };
  int64_t d = 0;
  for (; d + PARTS <= a.size; d += PARTS)
    for (int i = 0; i < PARTS; i++) add(d + i, i);
  for (int i = 0; d < a.size; d++, i++) add(d, i);
  for (int width = PARTS / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) part[i] += part[i + width];
  return part[0] / 2;
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
