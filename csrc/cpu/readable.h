// Checks and layouts of the tensors that kernels read.
#pragma once

#include <ATen/core/Tensor.h>

namespace pymultiling {

// Returns the same values with contiguous rows. The distance between rows may be anything.
at::Tensor contiguous_rows(const at::Tensor& x);

// Returns true for bfloat16 and false for float32. Raises for any other dtype.
bool is_bfloat16(const at::Tensor& x);

}  // namespace pymultiling
