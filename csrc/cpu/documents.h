// Document ids to runs of tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/matrix.h"

namespace pymultiling {

// Consecutive tokens of one document, at most RUN of them; padding (-1) makes runs too.
// Raises IndexError for an id that is not in [-1, count).
std::vector<Run> document_runs(const at::Tensor& documents, int64_t tokens, int64_t count);

// (tokens,) int64 ids of mask sets, contiguous. Raises IndexError for an id that is not in [-1, sets).
at::Tensor checked_mask_ids(const at::Tensor& mask_ids, int64_t tokens, int64_t sets);

at::Tensor checked_masks(const at::Tensor& masks, int64_t width);  // (sets, width) bool, contiguous

// The same values with each row contiguous, whatever lies between rows.
at::Tensor contiguous_rows(const at::Tensor& x);

bool is_bfloat16(const at::Tensor& x);  // and not float32; raises for any other dtype

}  // namespace pymultiling
