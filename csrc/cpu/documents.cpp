#include "documents.h"

#include <c10/util/Exception.h>

namespace pymultiling {

std::vector<Run> document_runs(const at::Tensor& documents, int64_t tokens, int64_t count) {
  TORCH_CHECK(
      documents.dim() == 1 && documents.size(0) == tokens && documents.scalar_type() == at::kLong && documents.is_cpu(),
      "documents must be an int64 tensor of shape (", tokens, ",) on the CPU");
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

}  // namespace pymultiling
