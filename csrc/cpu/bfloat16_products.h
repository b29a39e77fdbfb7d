// Products of bfloat16 matrices, summed in float32, by the oneDNN in PyTorch (AMX, AVX512_BF16).
#pragma once

#include <ATen/core/Tensor.h>

namespace pymultiling {

// Returns whether the machine has instructions for `bfloat16_products` and AVX-512 kernels are in use.
bool has_bfloat16_products();

// Returns the rows of w (D, N), and behind them its rows `further` (int64) once more, in the order in which
// `bfloat16_products` reads them: rows 2i and 2i + 1 side by side. The result is (pairs, W, 2), with zeros behind the N
// columns, and in place of a second row where D or the number of further rows is odd. W is a multiple of 16.
at::Tensor pack_pairs(const at::Tensor& w, const at::Tensor& further);

// Writes factors (M, D) times the packed rows (D / 2, W, 2) to products (M, N), float32, with N <= W. All tensors are
// contiguous. Call it only if `has_bfloat16_products`.
void bfloat16_products(const at::Tensor& products, const at::Tensor& factors, const at::Tensor& packed);

}  // namespace pymultiling
