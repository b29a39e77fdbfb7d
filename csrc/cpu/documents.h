// Document ids to runs of tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/matrix.h"

namespace pymultiling {

// Consecutive tokens of one document, at most RUN of them; padding (-1) makes runs too.
// Raises IndexError for an id that is not in [-1, count).
std::vector<Run> document_runs(const at::Tensor& documents, int64_t tokens, int64_t count);

}  // namespace pymultiling
