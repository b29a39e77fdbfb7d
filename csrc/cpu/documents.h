// Converts document ids to runs of tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/matrix.h"

namespace pymultiling {

// Returns runs of at most RUN consecutive tokens of one document. `documents` (tokens,) has the document of every
// token, and -1 for padding. Padding tokens form runs too. `count` is the number of documents. Raises IndexError for an
// id outside [-1, count).
std::vector<Run> document_runs(const at::Tensor& documents, int64_t tokens, int64_t count);

}  // namespace pymultiling
