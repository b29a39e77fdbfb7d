// nearest_neighbors: finds candidates by float32 similarities, in rounds of pairs of blocks. Then it computes exact
// distances. Where the candidates may not include the nearest points, it searches all points.
//
// The cosine distance is half of the squared distance between points of length 1, 1 - x y = |x - y|^2 / 2, so both
// metrics use the same search.
#include "kernels/nearest_neighbors.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "readable.h"

namespace pymultiling {
namespace {

constexpr int64_t EXTRA_CANDIDATES = 3;  // candidates besides the k nearest
constexpr int64_t GRAIN = 64;            // points or dimensions per parallel task
constexpr double ROUNDING = 0x1p-24;     // of float32
constexpr int32_t NO_POINT = std::numeric_limits<int32_t>::max();

// Computes the point to subtract so that similarities lose little to rounding: the mean of the scaled points. It is
// rounded to a multiple of a power of two that is small compared with their extent, so that numbers with few digits,
// such as integers, keep few digits. Returns the exponent of the extent.
int find_centre(const float* points, const double* scale, int64_t count, int64_t size, double* centre) {
  std::vector<double> extent(size);
  at::parallel_for(0, size, GRAIN, [&](int64_t first, int64_t last) {
    std::vector<double> total(last - first), low(last - first, INFINITY), high(last - first, -INFINITY);
    for (int64_t point = 0; point < count; point++)
      for (int64_t d = first; d < last; d++) {
        const double x = points[point * size + d] * scale[point];
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
    for (int64_t d = 0; d < size; d++) centre[d] *= scale[0];
    return 0;
  }
  const int exponent = std::ilogb(largest);
  for (int64_t d = 0; d < size; d++)
    centre[d] = std::ldexp(std::nearbyint(std::ldexp(centre[d], 4 - exponent)), exponent - 4);
  return exponent;
}

// Rounds to 40 bits, so that values that differ only by the rounding of float64 become equal.
double round_to_40_bits(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + (1 << 11)) & ~uint64_t{(1 << 12) - 1};
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

struct Neighbour {
  double half_square;
  int64_t index;
  bool operator<(const Neighbour& other) const {
    return half_square < other.half_square || (half_square == other.half_square && index < other.index);
  }
};

struct Search {
  const NearestNeighbors& a;
  double (*half_square)(const NearestNeighbors&, int64_t, int64_t);
  int64_t k;
  double zero_threshold;             // smaller values are rounding errors between equal directions
  int64_t nonzero_points;            // number of points that are not 0; all points for the Euclidean metric
  std::vector<int64_t> zero_points;  // the first k + 1 points that are 0; their cosine distance to every point is 1

  bool is_zero(int64_t i) const { return a.scale[i] == 0; }

  Neighbour neighbour(int64_t i, int64_t j) const {
    if (is_zero(i) || is_zero(j)) return {1, j};
    const double square = half_square(a, i, j);
    return {square < zero_threshold ? 0 : round_to_40_bits(square), j};
  }

  // Sets `neighbours` to the k nearest candidates of point i, in order. Returns false if a point that is no candidate
  // may be nearer than one of them.
  bool search_candidates(int64_t i, std::vector<Neighbour>& neighbours) const {
    neighbours.clear();
    if (is_zero(i)) return false;
    for (int64_t n = 0; n < a.candidates; n++) {
      const int32_t j = a.indices[i * a.candidates + n];
      if (j != NO_POINT) neighbours.push_back(neighbour(i, j));
    }
    const bool all_are_candidates = int64_t(neighbours.size()) == nonzero_points - 1;
    for (const int64_t j : zero_points) neighbours.push_back({1, j});
    std::sort(neighbours.begin(), neighbours.end());
    neighbours.resize(k);
    if (all_are_candidates) return true;
    // Every other point has at most the similarity of the worst candidate. A similarity is |x|^2 / 2 minus the half
    // square, up to the rounding of x and y to float32 and of the sum of products. That rounding grows with the root of
    // the number of products.
    const double half = a.offset[i], length = std::sqrt(2 * half), farthest = neighbours.back().half_square;
    const double reach = length + std::sqrt(2 * farthest);  // a point at most this far away is no longer than this
    const double rounding = ROUNDING * (length * reach * (2 * std::sqrt(double(a.size)) + 4) + 4 * reach * reach);
    return farthest < half - a.similarities[i * a.candidates] - rounding;
  }

  // Sets `neighbours` to the k nearest of all points, in order.
  void search_all(int64_t i, std::vector<Neighbour>& neighbours) const {
    neighbours.clear();
    for (int64_t j = 0; j < a.count; j++) {
      if (j == i) continue;
      const Neighbour candidate = neighbour(i, j);
      if (int64_t(neighbours.size()) == k) {
        if (!(candidate < neighbours.back())) continue;
        neighbours.pop_back();
      }
      neighbours.insert(std::upper_bound(neighbours.begin(), neighbours.end(), candidate), candidate);
    }
  }
};

std::tuple<at::Tensor, at::Tensor> nearest_neighbors(const at::Tensor& points, int64_t k, const std::string& metric) {
  is_bfloat16(points);  // raises for a dtype that is not float32 or bfloat16
  TORCH_CHECK_VALUE(metric == "cosine" || metric == "euclidean", "metric must be cosine or euclidean, got ", metric);
  const at::Tensor wide = points.to(at::kFloat).contiguous();
  const int64_t count = wide.size(0), size = wide.size(1), blocks = (count + NEAREST_BLOCK - 1) / NEAREST_BLOCK;
  TORCH_CHECK_VALUE(
      k >= 1 && k < count && count <= NO_POINT - NEAREST_BLOCK, "k must be in [1, ", count - 1, "], got ", k);
  const bool euclidean = metric == "euclidean";
  const float* x = wide.const_data_ptr<float>();

  std::vector<double> centre(size), scale(count, 1.0);
  if (!euclidean)
    at::parallel_for(0, count, GRAIN, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) {
        double square = 0;
        for (int64_t d = 0; d < size; d++) square += double(x[i * size + d]) * x[i * size + d];
        scale[i] = square == 0 ? 0 : 1 / std::sqrt(square);
      }
    });
  const int exponent = find_centre(x, scale.data(), count, size, centre.data());
  // Scales by a power of two that brings the extent near 1, so that squares do not overflow or underflow.
  if (euclidean) {
    std::fill(scale.begin(), scale.end(), std::ldexp(1.0, -exponent));
    for (double& coordinate : centre) coordinate = std::ldexp(coordinate, -exponent);
  }

  const int64_t candidates = std::min(k + EXTRA_CANDIDATES, count - 1);
  const at::Tensor panels = at::empty({blocks * NEAREST_BLOCK, size}, at::kFloat);
  const at::Tensor similarities = at::full({count, candidates}, -INFINITY, at::kFloat);
  const at::Tensor candidate_indices = at::full({count, candidates}, NO_POINT, at::kInt);
  std::vector<float> offset(blocks * NEAREST_BLOCK), worst(blocks * NEAREST_BLOCK);
  const NearestNeighbors arguments{
      x,
      scale.data(),
      centre.data(),
      count,
      size,
      candidates,
      panels.mutable_data_ptr<float>(),
      offset.data(),
      worst.data(),
      similarities.mutable_data_ptr<float>(),
      candidate_indices.mutable_data_ptr<int32_t>()};
  const Kernels& kernel = kernels();
  at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; block++) kernel.nearest_panels(arguments, block);
  });
  // In each round every block is in one pair: with the block whose number and its own add up to the round's, modulo the
  // number of blocks. So no two threads write to the same points, and all rounds together contain every pair once.
  for (int64_t round = 0; round < blocks; round++) {
    std::vector<std::pair<int64_t, int64_t>> pairs;
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t partner = (round - block + blocks) % blocks;
      if (block <= partner) pairs.emplace_back(block, partner);
    }
    at::parallel_for(0, pairs.size(), 1, [&](int64_t first, int64_t last) {
      for (int64_t pair = first; pair < last; pair++)
        kernel.nearest_pair(arguments, pairs[pair].first, pairs[pair].second);
    });
  }

  Search search{arguments, kernel.half_square, k, euclidean ? 0 : 1e-28, count, {}};
  for (int64_t i = 0; i < count; i++)
    if (search.is_zero(i)) {
      search.nonzero_points--;
      if (int64_t(search.zero_points.size()) <= k) search.zero_points.push_back(i);
    }
  const at::Tensor indices = at::empty({count, k}, at::kLong), distances = at::empty({count, k}, at::kFloat);
  int64_t* index = indices.mutable_data_ptr<int64_t>();
  float* distance = distances.mutable_data_ptr<float>();
  at::parallel_for(0, count, GRAIN, [&](int64_t first, int64_t last) {
    std::vector<Neighbour> neighbours;
    for (int64_t i = first; i < last; i++) {
      if (!search.search_candidates(i, neighbours)) search.search_all(i, neighbours);
      for (int64_t n = 0; n < k; n++) {
        const double half_square = neighbours[n].half_square;
        index[i * k + n] = neighbours[n].index;
        distance[i * k + n] = float(euclidean ? std::ldexp(std::sqrt(2 * half_square), exponent) : half_square);
      }
    }
  });
  return {indices, distances};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) {
  m.def("nearest_neighbors(Tensor points, int k, str metric) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(pymultiling_cpp, CPU, m) { m.impl("nearest_neighbors", &nearest_neighbors); }

}  // namespace pymultiling
