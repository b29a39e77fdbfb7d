// The type of optional tensors in operators' parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace pymultiling {

using OptionalTensor = std::optional<at::Tensor>;  // `Tensor?` in a schema

}  // namespace pymultiling
