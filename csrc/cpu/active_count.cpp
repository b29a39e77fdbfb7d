#include "columns.h"
#include "dispatch.h"
#include "ops.h"

namespace pymultiling {

at::Tensor active_count(const at::Tensor& x, const at::Tensor& documents, int64_t count) {
  return column_sums(x, documents, count, kernels().active_count);
}

}  // namespace pymultiling
