// The operators on tensors; semantics and arguments as in pymultiling/reference.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <tuple>

#include "../optional_tensor.h"

namespace pymultiling {

at::Tensor active_count(const at::Tensor& x, const at::Tensor& documents, int64_t count);

at::Tensor column_energy(const at::Tensor& x, const at::Tensor& documents, int64_t count);

at::Tensor value_energy(const at::Tensor& attention, const at::Tensor& gram, const at::Tensor& documents,
                        int64_t count);
at::Tensor value_gram(const at::Tensor& weight, int64_t kv_heads, int64_t size);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> gated_ffn(
    const at::Tensor& gate, const OptionalTensor& up, const std::string& activation, const at::Tensor& documents,
    int64_t count, const OptionalTensor& masks, const OptionalTensor& mask_ids);

at::Tensor mask_neurons(const at::Tensor& x, const at::Tensor& masks, const at::Tensor& mask_ids, double scale,
                        const OptionalTensor& values);
void mask_neurons_(at::Tensor x, const at::Tensor& masks, const at::Tensor& mask_ids, double scale,
                   const OptionalTensor& values);

std::tuple<at::Tensor, at::Tensor> nearest_neighbors(const at::Tensor& points, int64_t k, const std::string& metric);

}  // namespace pymultiling
