#include "documents.h"

#include <c10/util/Exception.h>

namespace pymultiling {

std::vector<Run> document_runs(const at::Tensor& documents, int64_t tokens, int64_t count) {
  TORCH_CHECK(documents.dim() == 1 && documents.size(0) == tokens && documents.scalar_type() == at::kLong &&
                  documents.is_cpu(),
              "documents must be int64 (", tokens, ") on the CPU");
  TORCH_CHECK(count >= 0, "count must not be negative, got ", count);
  const at::Tensor contiguous = documents.contiguous();
  const int64_t* id = contiguous.const_data_ptr<int64_t>();
  std::vector<Run> runs;
  for (int64_t t = 0; t < tokens; t++) {
    TORCH_CHECK_INDEX(id[t] >= -1 && id[t] < count, "token ", t, " has document ", id[t], ", there are ", count);
    if (runs.empty() || runs.back().document != id[t] || t - runs.back().begin == RUN) runs.push_back({t, t, id[t]});
    runs.back().end = t + 1;
  }
  return runs;
}

at::Tensor checked_mask_ids(const at::Tensor& mask_ids, int64_t tokens, int64_t sets) {
  TORCH_CHECK(mask_ids.dim() == 1 && mask_ids.size(0) == tokens && mask_ids.scalar_type() == at::kLong &&
                  mask_ids.is_cpu(),
              "mask_ids must be int64 (", tokens, ") on the CPU");
  at::Tensor contiguous = mask_ids.contiguous();
  const int64_t* id = contiguous.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < tokens; t++)
    TORCH_CHECK_INDEX(id[t] >= -1 && id[t] < sets, "token ", t, " has mask set ", id[t], ", there are ", sets);
  return contiguous;
}

at::Tensor checked_masks(const at::Tensor& masks, int64_t width) {
  TORCH_CHECK(masks.dim() == 2 && masks.size(1) == width && masks.scalar_type() == at::kBool && masks.is_cpu(),
              "masks must be bool (sets, ", width, ") on the CPU");
  return masks.contiguous();
}

at::Tensor contiguous_rows(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 2, "expected (tokens, neurons), got ", x.sizes());
  return x.stride(1) == 1 || x.size(1) <= 1 ? x : x.contiguous();
}

bool is_bfloat16(const at::Tensor& x) {
  TORCH_CHECK(x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16),
              "expected float32 or bfloat16 on the CPU, got ", x.scalar_type(), " on ", x.device());
  return x.scalar_type() == at::kBFloat16;
}

}  // namespace pymultiling
