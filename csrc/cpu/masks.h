// Checks the masks and the mask ids that kernels get.
#pragma once

#include <ATen/core/Tensor.h>

namespace pymultiling {

// Returns the mask set of every token, (tokens,) int64, contiguous; -1: the token is not masked. Raises IndexError for
// an id outside [-1, sets).
at::Tensor check_mask_ids(const at::Tensor& mask_ids, int64_t tokens, int64_t sets);

// Returns the (sets, width) bool masks, contiguous.
at::Tensor check_masks(const at::Tensor& masks, int64_t width);

}  // namespace pymultiling
