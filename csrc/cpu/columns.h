// Sums over the columns of a tensor, per document. The kernels are in kernels/columns.h.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include "documents.h"
#include "kernels/column_sums.h"
#include "readable.h"

namespace pymultiling {

// Returns the kernel's sums of x (tokens, N) over the tokens of each document: (count, N) in the kernel's dtype.
// `documents` has the document of every token, `count` is the number of documents.
template <typename Sum>
at::Tensor column_sums(
    const at::Tensor& x, const at::Tensor& documents, int64_t count, void (*kernel)(const ColumnSums<Sum>&, int64_t)) {
  const bool bfloat16 = is_bfloat16(x);
  const at::Tensor rows = contiguous_rows(x);
  const auto runs = document_runs(documents, x.size(0), count);
  at::Tensor sums = at::zeros({count, x.size(1)}, c10::CppTypeToScalarType<Sum>::value);
  const ColumnSums<Sum> arguments{
      {rows.const_data_ptr(), rows.stride(0)},
      bfloat16,
      x.size(1),
      runs.data(),
      static_cast<int64_t>(runs.size()),
      sums.mutable_data_ptr<Sum>()};
  at::parallel_for(0, (x.size(1) + COLUMNS - 1) / COLUMNS, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; task++) kernel(arguments, task * COLUMNS);
  });
  return sums;
}

}  // namespace pymultiling
