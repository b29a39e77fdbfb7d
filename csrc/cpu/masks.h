// Sets of masks, and which of them each token has, as the kernels read them.
#pragma once

#include <ATen/core/Tensor.h>

namespace pymultiling {

// (tokens,) int64 ids of mask sets, contiguous. Raises IndexError for an id that is not in [-1, sets).
at::Tensor checked_mask_ids(const at::Tensor& mask_ids, int64_t tokens, int64_t sets);

at::Tensor checked_masks(const at::Tensor& masks, int64_t width);  // (sets, width) bool, contiguous

}  // namespace pymultiling
