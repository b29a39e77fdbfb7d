// nearest_neighbors: candidates by float32 scores, the blocks in rounds; then exact distances, and all points again
// for whom the candidates may not be the nearest.
//
// A cosine distance is half the square between points of length 1, 1 - x y = |x - y|^2 / 2, so both metrics are one.
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

constexpr int64_t SPARE = 3;          // candidates beyond k
constexpr int64_t SOME = 64;          // points or dimensions that a thread takes at once
constexpr double ROUNDING = 0x1p-24;  // of float32
constexpr int32_t NOBODY = std::numeric_limits<int32_t>::max();

// Where scores lose little to rounding: the mean of the scaled points, rounded to a multiple of a power of two that is
// small beside their extent, so that numbers of few digits, such as integers, keep few. Returns the extent's exponent.
int find_centre(const float* points, const double* scale, int64_t count, int64_t size, double* centre) {
  std::vector<double> extent(size);
  at::parallel_for(0, size, SOME, [&](int64_t first, int64_t last) {
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

// Rounded to 40 bits, so that what is equal but for the rounding of float64 is equal.
double shortened(double x) {
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
  double tiny;                 // what is smaller is the rounding of equal directions
  int64_t others;              // points that are not 0, for cosines
  std::vector<int64_t> zeros;  // the first k + 1 of those, of distance 1 to all

  bool zero(int64_t i) const { return a.scale[i] == 0; }

  Neighbour neighbour(int64_t i, int64_t j) const {
    if (zero(i) || zero(j)) return {1, j};
    const double found = half_square(a, i, j);
    return {found < tiny ? 0 : shortened(found), j};
  }

  // near: the k nearest of the candidates, in order. Returns false where another point may be nearer than one of these.
  bool of_candidates(int64_t i, std::vector<Neighbour>& near) const {
    near.clear();
    if (zero(i)) return false;
    for (int64_t n = 0; n < a.kept; n++) {
      const int32_t j = a.indices[i * a.kept + n];
      if (j != NOBODY) near.push_back(neighbour(i, j));
    }
    const bool all = int64_t(near.size()) == others - 1;
    for (const int64_t j : zeros) near.push_back({1, j});
    std::sort(near.begin(), near.end());
    near.resize(k);
    if (all) return true;
    // Another point's score is at most the least that was kept. Scores are |x|^2 / 2 less the half square, up to the
    // rounding of x and y to float32 and of a sum of products, which grows as the root of their number.
    const double half = a.offset[i], length = std::sqrt(2 * half), farthest = near.back().half_square;
    const double reach = length + std::sqrt(2 * farthest);  // what is as near is no longer than that
    const double rounding = ROUNDING * (length * reach * (2 * std::sqrt(double(a.size)) + 4) + 4 * reach * reach);
    return farthest < half - a.scores[i * a.kept] - rounding;
  }

  void of_all(int64_t i, std::vector<Neighbour>& near) const {
    near.clear();
    for (int64_t j = 0; j < a.count; j++) {
      if (j == i) continue;
      const Neighbour one = neighbour(i, j);
      if (int64_t(near.size()) == k) {
        if (!(one < near.back())) continue;
        near.pop_back();
      }
      near.insert(std::upper_bound(near.begin(), near.end(), one), one);
    }
  }
};

std::tuple<at::Tensor, at::Tensor> nearest_neighbors(const at::Tensor& points, int64_t k, const std::string& metric) {
  is_bfloat16(points);  // or float32; raises for another dtype
  TORCH_CHECK_VALUE(metric == "cosine" || metric == "euclidean", "metric must be cosine or euclidean, got ", metric);
  const at::Tensor wide = points.to(at::kFloat).contiguous();
  const int64_t count = wide.size(0), size = wide.size(1), blocks = (count + NEAREST_BLOCK - 1) / NEAREST_BLOCK;
  TORCH_CHECK_VALUE(
      k >= 1 && k < count && count <= NOBODY - NEAREST_BLOCK, "k must be in [1, ", count - 1, "], got ", k);
  const bool euclidean = metric == "euclidean";
  const float* x = wide.const_data_ptr<float>();

  std::vector<double> centre(size), scale(count, 1.0);
  if (!euclidean)
    at::parallel_for(0, count, SOME, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) {
        double square = 0;
        for (int64_t d = 0; d < size; d++) square += double(x[i * size + d]) * x[i * size + d];
        scale[i] = square == 0 ? 0 : 1 / std::sqrt(square);
      }
    });
  const int exponent = find_centre(x, scale.data(), count, size, centre.data());
  if (euclidean) {  // a power of two that brings the extent near 1, so that squares neither overflow nor vanish
    std::fill(scale.begin(), scale.end(), std::ldexp(1.0, -exponent));
    for (double& one : centre) one = std::ldexp(one, -exponent);
  }

  const int64_t kept = std::min(k + SPARE, count - 1);
  const at::Tensor panels = at::empty({blocks * NEAREST_BLOCK, size}, at::kFloat);
  const at::Tensor scores = at::full({count, kept}, -INFINITY, at::kFloat);
  const at::Tensor found = at::full({count, kept}, NOBODY, at::kInt);
  std::vector<float> offset(blocks * NEAREST_BLOCK), least(blocks * NEAREST_BLOCK);
  const NearestNeighbors arguments{
      x,
      scale.data(),
      centre.data(),
      count,
      size,
      kept,
      panels.mutable_data_ptr<float>(),
      offset.data(),
      least.data(),
      scores.mutable_data_ptr<float>(),
      found.mutable_data_ptr<int32_t>()};
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

  Search search{arguments, kernel.half_square, k, euclidean ? 0 : 1e-28, count, {}};
  for (int64_t i = 0; i < count; i++)
    if (search.zero(i)) {
      search.others--;
      if (int64_t(search.zeros.size()) <= k) search.zeros.push_back(i);
    }
  const at::Tensor indices = at::empty({count, k}, at::kLong), distances = at::empty({count, k}, at::kFloat);
  int64_t* index = indices.mutable_data_ptr<int64_t>();
  float* distance = distances.mutable_data_ptr<float>();
  at::parallel_for(0, count, SOME, [&](int64_t first, int64_t last) {
    std::vector<Neighbour> near;
    for (int64_t i = first; i < last; i++) {
      if (!search.of_candidates(i, near)) search.of_all(i, near);
      for (int64_t n = 0; n < k; n++) {
        const double half_square = near[n].half_square;
        index[i * k + n] = near[n].index;
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
