// What the kernels can read of a tensor.
#pragma once

#include <ATen/core/Tensor.h>

namespace pymultiling {

// The same values with each row contiguous, whatever lies between rows.
at::Tensor contiguous_rows(const at::Tensor& x);

bool is_bfloat16(const at::Tensor& x);  // and not float32; raises for any other dtype

}  // namespace pymultiling
