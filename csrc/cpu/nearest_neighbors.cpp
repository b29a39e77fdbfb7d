// nearest_neighbors: the blocks in rounds, and the distances of what they found.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "documents.h"
#include "ops.h"

namespace pymultiling {
namespace {

constexpr int64_t SPARE = 3;  // neighbours beyond k by float32 scores, among which exact distances choose
constexpr int64_t SOME = 64;  // points or dimensions that a thread takes at once

template <typename Term>
double sum(int64_t size, Term term) {  // in 8 partial sums, which the compiler makes vectors of
  double part[8] = {};
  int64_t d = 0;
  for (; d + 8 <= size; d += 8)
    for (int i = 0; i < 8; i++) part[i] += term(d + i);
  for (int i = 0; d < size; d++, i++) part[i] += term(d);
  return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

// Where squared distances lose little to |x|^2 + |y|^2 - 2 x y: the mean, rounded to a multiple of a power of two
// that is small beside the points' extent, so that numbers of few digits, such as integers, keep few. Returns a power
// of two that brings the extent near 1, so that squares neither overflow nor vanish.
double find_centre(const float* points, int64_t count, int64_t size, double* centre) {
  std::vector<double> extent(size);
  at::parallel_for(0, size, SOME, [&](int64_t first, int64_t last) {
    std::vector<double> total(last - first), low(last - first, INFINITY), high(last - first, -INFINITY);
    for (int64_t point = 0; point < count; point++)
      for (int64_t d = first; d < last; d++) {
        const double x = points[point * size + d];
        total[d - first] += x;
        low[d - first] = std::min(low[d - first], x);
        high[d - first] = std::max(high[d - first], x);
      }
    for (int64_t d = first; d < last; d++) {
      centre[d] = total[d - first] / count;
      extent[d] = high[d - first] - low[d - first];
    }
  });
  const double largest = *std::max_element(extent.begin(), extent.end());
  if (largest == 0) {
    std::copy_n(points, size, centre);
    return 1;
  }
  const int exponent = std::ilogb(largest);
  for (int64_t d = 0; d < size; d++)
    centre[d] = std::ldexp(std::nearbyint(std::ldexp(centre[d], 4 - exponent)), exponent - 4);
  return std::ldexp(1.0, -exponent);
}

struct Neighbour {
  float distance;
  int64_t index;
  bool operator<(const Neighbour& other) const {
    return distance < other.distance || (distance == other.distance && index < other.index);
  }
};

}  // namespace

std::tuple<at::Tensor, at::Tensor> nearest_neighbors(const at::Tensor& points, int64_t k, const std::string& metric) {
  is_bfloat16(points);  // or float32; raises for another dtype
  TORCH_CHECK_VALUE(metric == "cosine" || metric == "euclidean", "metric must be cosine or euclidean, got ", metric);
  const at::Tensor wide = points.to(at::kFloat).contiguous();
  const int64_t count = wide.size(0), size = wide.size(1), blocks = (count + NEAREST_BLOCK - 1) / NEAREST_BLOCK;
  TORCH_CHECK_VALUE(k >= 1 && k < count && count <= std::numeric_limits<int32_t>::max() - NEAREST_BLOCK,
                    "k must be in [1, ", count - 1, "], got ", k);
  const bool euclidean = metric == "euclidean";
  const float* x = wide.const_data_ptr<float>();

  std::vector<double> centre(size), scale(count), squares(count);
  std::vector<float> offset(blocks * NEAREST_BLOCK), least(blocks * NEAREST_BLOCK);
  at::parallel_for(0, count, SOME, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      const float* own = x + i * size;
      squares[i] = sum(size, [&](int64_t d) { return double(own[d]) * own[d]; });
      scale[i] = squares[i] == 0 ? 0 : 1 / std::sqrt(squares[i]);
    }
  });
  if (euclidean) std::fill(scale.begin(), scale.end(), find_centre(x, count, size, centre.data()));

  const int64_t kept = std::min(k + SPARE, count - 1);
  const at::Tensor panels = at::empty({blocks * NEAREST_BLOCK, size}, at::kFloat);
  const at::Tensor scores = at::full({count, kept}, -INFINITY, at::kFloat);
  const at::Tensor found = at::full({count, kept}, std::numeric_limits<int32_t>::max(), at::kInt);
  const NearestNeighbors arguments{x, centre.data(), scale.data(), count, size, kept, euclidean,
                                   panels.mutable_data_ptr<float>(), offset.data(), least.data(),
                                   scores.mutable_data_ptr<float>(), found.mutable_data_ptr<int32_t>()};
  const Kernels& kernel = kernels();
  at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; block++) kernel.nearest_panels(arguments, block);
  });
  // In a round every block is in one pair, with the block whose number and its own add up to the round's: no two
  // threads have the same points, and all rounds together have every pair once.
  for (int64_t round = 0; round < blocks; round++) {
    std::vector<std::pair<int64_t, int64_t>> pairs;
    for (int64_t one = 0; one < blocks; one++) {
      const int64_t other = (round - one + blocks) % blocks;
      if (one <= other) pairs.emplace_back(one, other);
    }
    at::parallel_for(0, pairs.size(), 1, [&](int64_t first, int64_t last) {
      for (int64_t pair = first; pair < last; pair++)
        kernel.nearest_pair(arguments, pairs[pair].first, pairs[pair].second);
    });
  }

  const at::Tensor indices = at::empty({count, k}, at::kLong), distances = at::empty({count, k}, at::kFloat);
  int64_t* index = indices.mutable_data_ptr<int64_t>();
  float* distance = distances.mutable_data_ptr<float>();
  at::parallel_for(0, count, SOME, [&](int64_t first, int64_t last) {
    std::vector<Neighbour> near(kept);
    for (int64_t i = first; i < last; i++) {
      for (int64_t n = 0; n < kept; n++) {
        const int64_t j = arguments.indices[i * kept + n];
        const float *own = x + i * size, *other = x + j * size;
        if (euclidean) {
          const auto square = [&](int64_t d) { const double t = double(own[d]) - other[d]; return t * t; };
          near[n] = {static_cast<float>(std::sqrt(sum(size, square))), j};
        } else {
          const double product = sum(size, [&](int64_t d) { return double(own[d]) * other[d]; });
          const double lengths = std::sqrt(squares[i] * squares[j]);
          near[n] = {1 - (lengths == 0 ? 0 : static_cast<float>(product / lengths)), j};
        }
      }
      std::partial_sort(near.begin(), near.begin() + k, near.end());
      for (int64_t n = 0; n < k; n++) {
        index[i * k + n] = near[n].index;
        distance[i * k + n] = near[n].distance;
      }
    }
  });
  return {indices, distances};
}

}  // namespace pymultiling
