// nearest_neighbors: the scores of all pairs of two blocks of points, and the best of every point as they come.
//
// Scores stay in registers, so the matrix of products is never in memory, and a pair is one product for both its
// points. The products of a pair are added in one order wherever it stands in a tile, and x y = y x. So equal points
// have equal scores, bit for bit, and what is kept, the best by (score, lowest index), does not depend on the order
// of the pairs.
#include "nearest_neighbors.h"

#include "cache_line.h"
#include "level.h"
#include "vec.h"

namespace pymultiling::PYMULTILING_LEVEL {

constexpr int VECTORS = 3, PANEL = VECTORS * LANES;  // points side by side
constexpr int ROWS = LANES == 16 ? 8 : 4;            // 24 or 12 sums in registers
constexpr int64_t PART = 256;                        // products that one sum adds up; then the sums of parts
static_assert(NEAREST_BLOCK % PANEL == 0 && PANEL % ROWS == 0);

void nearest_panels(const NearestNeighbors& a, int64_t block) {
  for (int64_t first = block * NEAREST_BLOCK; first < (block + 1) * NEAREST_BLOCK; first += PANEL) {
    float* panel = a.panels + first * a.size;
    for (int64_t from = 0; from < a.size; from += LINE)  // whole cache lines: rows may fight for one set
      for (int64_t i = 0; i < PANEL; i++)
        for (int64_t d = from; d < a.size && d < from + LINE; d++) {
          const int64_t point = first + i;
          panel[d * PANEL + i] =
              point < a.count ? float(a.points[point * a.size + d] * a.scale[point] - a.centre[d]) : 0.0f;
        }
    for (int64_t i = 0; i < PANEL; i++) {
      double squares = 0;
      for (int64_t d = 0; d < a.size; d++) squares += double(panel[d * PANEL + i]) * panel[d * PANEL + i];
      const bool real = first + i < a.count && a.scale[first + i] != 0;
      a.offset[first + i] = real ? float(squares / 2) : __builtin_nanf("");  // which no score exceeds
      a.least[first + i] = real ? -__builtin_inff() : __builtin_nanf("");
    }
  }
}

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

PYMULTILING_INLINE bool before(float score, int32_t index, float other_score, int32_t other_index) {
  return score > other_score || (score == other_score && index < other_index);
}

// Replaces the worst of a point's neighbours so far, the root of a heap, if `index` comes before it.
static void offer(const NearestNeighbors& a, int64_t point, int32_t index, float score) {
  float* scores = a.scores + point * a.kept;
  int32_t* indices = a.indices + point * a.kept;
  if (index == point || !before(score, index, scores[0], indices[0])) return;
  int64_t at = 0;
  for (int64_t child = 1; child < a.kept; child = 2 * at + 1) {
    if (child + 1 < a.kept && before(scores[child], indices[child], scores[child + 1], indices[child + 1])) child++;
    if (!before(score, index, scores[child], indices[child])) break;
    scores[at] = scores[child];
    indices[at] = indices[child];
    at = child;
  }
  scores[at] = score;
  indices[at] = index;
  a.least[point] = scores[0];
}

template <typename Offer>
PYMULTILING_INLINE void each_lane(ivec hits, Offer offer) {
  for (uint32_t lanes = lanes_of(hits); lanes != 0; lanes &= lanes - 1) offer(__builtin_ctz(lanes));
}

// `one` and `other` are blocks, and may be the same.
void nearest_pair(const NearestNeighbors& a, int64_t one, int64_t other) {
  const ivec both = ivec{} - (one != other);  // of a block with itself every pair comes twice
  for (int64_t j = other * NEAREST_BLOCK; j < (other + 1) * NEAREST_BLOCK; j += PANEL)
    for (int64_t i = one * NEAREST_BLOCK; i < (one + 1) * NEAREST_BLOCK; i += ROWS) {
      vec product[ROWS][VECTORS] = {};
      products(a.panels + i / PANEL * PANEL * a.size + i % PANEL, a.panels + j * a.size, a.size, product);
      for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) {
          const int64_t row = i + r, column = j + v * LANES;
          const vec to_row = product[r][v] - load(a.offset + column), to_column = product[r][v] - a.offset[row];
          const ivec near_row = to_row >= a.least[row], near_column = (to_column >= load(a.least + column)) & both;
          if (!any(near_row | near_column)) continue;
          each_lane(near_row, [&](int lane) { offer(a, row, column + lane, to_row[lane]); });
          each_lane(near_column, [&](int lane) { offer(a, column + lane, row, to_column[lane]); });
        }
    }
}

// |x - y|^2 / 2 of scaled points.
double half_square(const NearestNeighbors& a, int64_t one, int64_t other) {
  const float *x = a.points + one * a.size, *y = a.points + other * a.size;
  const double x_scale = a.scale[one], y_scale = a.scale[other];
  constexpr int PARTS = 16;  // sums, which the compiler makes vectors of
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

}  // namespace pymultiling::PYMULTILING_LEVEL
