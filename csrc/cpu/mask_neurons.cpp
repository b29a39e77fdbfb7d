// mask_neurons and mask_neurons_ on tensors. kernels/mask_neurons.cpp has the definition.
#include "kernels/mask_neurons.h"

#include <ATen/Parallel.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../optional_tensor.h"
#include "dispatch.h"
#include "masks.h"
#include "readable.h"

namespace pymultiling {
namespace {

constexpr int64_t ELEMENTS_WORTH_A_THREAD = 32768;

// Writes the result for contiguous rows x to `result`, which may be x.
void mask_rows(
    const at::Tensor& x, const at::Tensor& result, const at::Tensor& masks, const at::Tensor& mask_ids, double scale,
    const OptionalTensor& values) {
  const int64_t tokens = x.size(0), width = x.size(1);
  const bool bfloat16 = is_bfloat16(x);
  const at::Tensor sets = check_masks(masks, width), ids = check_mask_ids(mask_ids, tokens, masks.size(0));
  const at::Tensor added_values = values ? values->contiguous() : at::Tensor();
  TORCH_CHECK_VALUE(
      !values || (added_values.dim() == 1 && added_values.size(0) == width && added_values.dtype() == x.dtype()),
      "values must be (N,) in x's dtype");
  if (x.numel() == 0) return;  // its memory may be null
  const MaskNeurons arguments{
      {x.const_data_ptr(), x.stride(0)},
      bfloat16 ? 2 : 4,
      width,
      sets.const_data_ptr<bool>(),
      ids.const_data_ptr<int64_t>(),
      scale == 0,
      static_cast<float>(scale),
      values ? added_values.const_data_ptr() : nullptr,
      result.mutable_data_ptr(),
      result.stride(0)};
  const Kernels& kernel = kernels();
  at::parallel_for(0, tokens, 1 + ELEMENTS_WORTH_A_THREAD / (width + 1), [&](int64_t first, int64_t last) {
    kernel.mask_neurons(arguments, first, last);
  });
}

at::Tensor mask_neurons(
    const at::Tensor& x, const at::Tensor& masks, const at::Tensor& mask_ids, double scale,
    const OptionalTensor& values) {
  at::Tensor result = at::empty(x.sizes(), x.options());
  mask_rows(contiguous_rows(x), result, masks, mask_ids, scale, values);
  return result;
}

void mask_neurons_(
    at::Tensor x, const at::Tensor& masks, const at::Tensor& mask_ids, double scale, const OptionalTensor& values) {
  const at::Tensor rows = contiguous_rows(x);
  // Values that are a part of x must not change while x is written.
  const bool is_part = values && values->is_alias_of(x);
  mask_rows(rows, rows, masks, mask_ids, scale, is_part ? OptionalTensor(values->clone()) : values);
  if (!rows.is_same(x)) x.copy_(rows);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) {
  m.def("mask_neurons(Tensor x, Tensor masks, Tensor mask_ids, float scale=0., Tensor? values=None) -> Tensor");
  m.def("mask_neurons_(Tensor(a!) x, Tensor masks, Tensor mask_ids, float scale=0., Tensor? values=None) -> ()");
}

TORCH_LIBRARY_IMPL(pymultiling_cpp, CPU, m) {
  m.impl("mask_neurons", &mask_neurons);
  m.impl("mask_neurons_", &mask_neurons_);
}

}  // namespace pymultiling
