// Products of bfloat16 matrices, summed in float32.
#pragma once

#include <ATen/core/Tensor.h>

namespace pymultiling {

// Returns whether the machine has instructions for `bfloat16_products` (AVX512_BF16) and AVX-512 kernels are in use.
bool has_bfloat16_products();

// Returns w (D, N) in the order in which `bfloat16_products` reads it: rows 2i and 2i + 1 side by side. The result is
// (D / 2, W, 2) with zeros behind the N columns. W is a multiple of 16. D is even.
at::Tensor pack_pairs(const at::Tensor& w);

// Writes factors (M, D) times w (D, N) to products (M, N), float32. `packed` is the result of `pack_pairs` for w, or
// for a matrix with further rows. All tensors are contiguous. Call it only if `has_bfloat16_products`.
void bfloat16_products(const at::Tensor& products, const at::Tensor& factors, const at::Tensor& packed);

}  // namespace pymultiling
