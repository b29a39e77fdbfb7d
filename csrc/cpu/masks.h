// Checks the masks and the mask ids that kernels get.
#pragma once

#include <ATen/core/Tensor.h>

namespace pymultiling {

// Returns mask_ids, contiguous: (tokens,) int64, the row of the masks that applies to each token; -1: the token is not
// masked. Raises RuntimeError for another shape, dtype or device, and IndexError for an id outside [-1, sets).
at::Tensor check_mask_ids(const at::Tensor& mask_ids, int64_t tokens, int64_t sets);

// Returns the masks, contiguous. Raises RuntimeError unless they are (sets, width) bool on the CPU.
at::Tensor check_masks(const at::Tensor& masks, int64_t width);

}  // namespace pymultiling
