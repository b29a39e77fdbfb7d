#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include "documents.h"
#include "ops.h"

namespace pymultiling {

at::Tensor column_energy(const at::Tensor& x, const at::Tensor& documents, int64_t count) {
  const bool bfloat16 = is_bfloat16(x);
  const at::Tensor rows = contiguous_rows(x);
  const auto runs = document_runs(documents, x.size(0), count);
  const at::Tensor energy = at::zeros({count, x.size(1)}, at::kDouble);
  const ColumnEnergy arguments{{rows.const_data_ptr(), rows.stride(0)}, bfloat16, x.size(1), runs.data(),
                               static_cast<int64_t>(runs.size()), energy.mutable_data_ptr<double>()};
  const Kernels& kernel = kernels();
  at::parallel_for(0, (x.size(1) + COLUMNS - 1) / COLUMNS, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; task++) kernel.column_energy(arguments, task * COLUMNS);
  });
  return energy.to(at::kFloat);
}

}  // namespace pymultiling
