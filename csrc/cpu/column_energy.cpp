#include "columns.h"
#include "dispatch.h"
#include "ops.h"

namespace pymultiling {

at::Tensor column_energy(const at::Tensor& x, const at::Tensor& documents, int64_t count) {
  return column_sums(x, documents, count, kernels().column_energy).to(at::kFloat);
}

}  // namespace pymultiling
