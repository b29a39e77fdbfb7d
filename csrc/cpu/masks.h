// Checks the mask sets, and the mask ids of the tokens, for the kernels.
#pragma once

#include <ATen/core/Tensor.h>

namespace pymultiling {

// Returns the (tokens,) int64 ids of mask sets, contiguous. Raises IndexError for an id outside [-1, sets).
at::Tensor check_mask_ids(const at::Tensor& mask_ids, int64_t tokens, int64_t sets);

// Returns the (sets, width) bool masks, contiguous.
at::Tensor check_masks(const at::Tensor& masks, int64_t width);

}  // namespace pymultiling
