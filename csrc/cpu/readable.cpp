#include "readable.h"

#include <c10/util/Exception.h>

namespace pymultiling {

at::Tensor contiguous_rows(const at::Tensor& x) {
  TORCH_CHECK(x.dim() == 2, "expected (tokens, neurons), got ", x.sizes());
  return x.stride(1) == 1 || x.size(1) <= 1 ? x : x.contiguous();
}

bool is_bfloat16(const at::Tensor& x) {
  TORCH_CHECK(
      x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16),
      "expected float32 or bfloat16 on the CPU, got ", x.scalar_type(), " on ", x.device());
  return x.scalar_type() == at::kBFloat16;
}

}  // namespace pymultiling
