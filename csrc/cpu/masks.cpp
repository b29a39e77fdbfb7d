#include "masks.h"

#include <c10/util/Exception.h>

namespace pymultiling {

at::Tensor check_mask_ids(const at::Tensor& mask_ids, int64_t tokens, int64_t sets) {
  TORCH_CHECK(
      mask_ids.dim() == 1 && mask_ids.size(0) == tokens && mask_ids.scalar_type() == at::kLong && mask_ids.is_cpu(),
      "mask_ids must be an int64 tensor of shape (", tokens, ",) on the CPU");
  at::Tensor contiguous = mask_ids.contiguous();
  const int64_t* id = contiguous.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < tokens; t++)
    TORCH_CHECK_INDEX(id[t] >= -1 && id[t] < sets, "token ", t, " has mask set ", id[t], ", there are ", sets);
  return contiguous;
}

at::Tensor check_masks(const at::Tensor& masks, int64_t width) {
  TORCH_CHECK(
      masks.dim() == 2 && masks.size(1) == width && masks.scalar_type() == at::kBool && masks.is_cpu(),
      "masks must be a bool tensor of shape (sets, ", width, ") on the CPU");
  return masks.contiguous();
}

}  // namespace pymultiling
