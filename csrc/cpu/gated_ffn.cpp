// gated_ffn on tensors. kernels/gated_ffn.cpp has the definition.
#include "kernels/gated_ffn.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <string>
#include <tuple>

#include "../optional_tensor.h"
#include "dispatch.h"
#include "documents.h"
#include "masks.h"
#include "readable.h"

namespace pymultiling {
namespace {

Activation parse_activation(const std::string& name) {
  if (name == "silu") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  TORCH_CHECK_VALUE(name == "relu", "activation ", name, " is not one of silu, gelu, gelu_tanh, relu");
  return Activation::relu;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> gated_ffn(
    const at::Tensor& gate, const OptionalTensor& up, const std::string& activation, const at::Tensor& documents,
    int64_t count, const OptionalTensor& masks, const OptionalTensor& mask_ids, const OptionalTensor& /*offsets*/,
    const OptionalTensor& /*order*/) {
  const bool bfloat16 = is_bfloat16(gate);
  const at::Tensor gate_rows = contiguous_rows(gate);
  const int64_t tokens = gate.size(0), width = gate.size(1);
  at::Tensor up_rows, sets, ids;
  if (up) {
    TORCH_CHECK(
        up->sizes() == gate.sizes() && up->scalar_type() == gate.scalar_type() && up->device().is_cpu(),
        "up must be on the CPU and have gate's shape and dtype");
    up_rows = contiguous_rows(*up);
  }
  TORCH_CHECK(masks.has_value() == mask_ids.has_value(), "masks and mask_ids must be given together");
  if (masks) {
    sets = check_masks(*masks, width);
    ids = check_mask_ids(*mask_ids, tokens, masks->size(0));
  }
  const auto runs = document_runs(documents, tokens, count);
  at::Tensor hidden = at::empty({tokens, width}, gate.options());
  const at::Tensor squares = at::zeros({count, width}, at::kDouble), magnitude = at::zeros_like(squares);
  at::Tensor active = at::zeros({count, width}, at::kLong);
  const GatedFfn arguments{
      {gate_rows.const_data_ptr(), gate_rows.stride(0)},
      {up ? up_rows.const_data_ptr() : nullptr, up ? up_rows.stride(0) : 0},
      bfloat16,
      width,
      parse_activation(activation),
      runs.data(),
      static_cast<int64_t>(runs.size()),
      masks ? sets.const_data_ptr<bool>() : nullptr,
      masks ? ids.const_data_ptr<int64_t>() : nullptr,
      hidden.mutable_data_ptr(),
      squares.mutable_data_ptr<double>(),
      active.mutable_data_ptr<int64_t>(),
      magnitude.mutable_data_ptr<double>(),
  };
  const Kernels& kernel = kernels();
  at::parallel_for(0, (width + COLUMNS - 1) / COLUMNS, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; task++) kernel.gated_ffn(arguments, task * COLUMNS);
  });
  return {hidden, squares.to(at::kFloat), active, magnitude.to(at::kFloat)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) {
  m.def(
      "gated_ffn(Tensor gate, Tensor? up, str activation, Tensor documents, int count, Tensor? masks, "
      "Tensor? mask_ids, Tensor? offsets=None, Tensor? order=None) -> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(pymultiling_cpp, CPU, m) { m.impl("gated_ffn", &gated_ffn); }

}  // namespace pymultiling
