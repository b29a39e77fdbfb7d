#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include "documents.h"
#include "ops.h"

namespace pymultiling {

at::Tensor value_energy(const at::Tensor& attention, const at::Tensor& gram, const at::Tensor& documents,
                        int64_t count) {
  const bool bfloat16 = is_bfloat16(attention);
  const at::Tensor rows = contiguous_rows(attention);
  TORCH_CHECK(gram.dim() == 4 && gram.size(2) == gram.size(3) &&
                  gram.size(0) * gram.size(1) * gram.size(2) == attention.size(1),
              "gram must be (K, d, G, G) with K d G = ", attention.size(1), ", got ", gram.sizes());
  const int64_t kv_heads = gram.size(0), size = gram.size(1), group = gram.size(2);
  const at::Tensor by_lane = gram.to(at::kFloat).permute({0, 2, 3, 1}).contiguous();
  const auto runs = document_runs(documents, attention.size(0), count);
  const at::Tensor energy = at::zeros({count, kv_heads * size}, at::kDouble);
  const ValueEnergy arguments{{rows.const_data_ptr(), rows.stride(0)}, bfloat16, kv_heads, group, size,
                              by_lane.const_data_ptr<float>(), runs.data(), static_cast<int64_t>(runs.size()),
                              energy.mutable_data_ptr<double>()};
  const Kernels& kernel = kernels();
  at::parallel_for(0, kv_heads, 1, [&](int64_t first, int64_t last) {
    for (int64_t head = first; head < last; head++) kernel.value_energy(arguments, head);
  });
  return energy.to(at::kFloat);
}

}  // namespace pymultiling
