// What a product of two heads counts in a sum over all ordered pairs, where each pair is multiplied once.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/tril.h>
#include <ATen/ops/where.h>

namespace pymultiling {

// Returns (K, G, G, d) of `dtype`, for a gram (K, d, G, G): gram[k, j, g, g] for a head with itself,
// gram[k, j, g, h] + gram[k, j, h, g] for two heads h < g, and 0 for h > g.
inline at::Tensor pair_weights(const at::Tensor& gram, at::ScalarType dtype) {
  const at::Tensor wide = gram.to(dtype), diagonal = at::eye(gram.size(3), at::kBool);
  return at::where(diagonal, wide, wide + wide.transpose(2, 3)).tril().permute({0, 2, 3, 1}).contiguous();
}

}  // namespace pymultiling
