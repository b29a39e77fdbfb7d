// The arguments of all operators on queries and keys, on the CPU and in CUDA: as a struct, in a schema, and as the
// parameters that torch calls an operator with. pymultiling/ops/qk_importance.py documents them.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "optional_tensor.h"

namespace pymultiling {

struct QkArguments {
  const at::Tensor &q, &k;
  const OptionalTensor &q_plain, &k_plain, &cos, &sin;
  const at::Tensor& valid;
  const OptionalTensor &q_growth, &k_growth;
  double scale;
  std::optional<int64_t> window;
  std::optional<double> softcap;
  bool interleaved;
  const OptionalTensor& sinks;
  bool causal;
  const OptionalTensor& bias;
};

inline std::string qk_schema(const std::string& name, const std::string& results) {
  return name +
         "(Tensor q, Tensor k, Tensor? q_plain, Tensor? k_plain, Tensor? cos, Tensor? sin, Tensor valid, "
         "Tensor? q_growth, Tensor? k_growth, float scale, int? window, float? softcap, bool interleaved, "
         "Tensor? sinks=None, bool causal=True, Tensor? bias=None) -> " +
         results;
}

// The function to register with m.impl() for an operator. It packs its arguments into the struct and calls `function`
// with the struct.
template <auto function>
auto with_packed_arguments(
    const at::Tensor& q, const at::Tensor& k, const OptionalTensor& q_plain, const OptionalTensor& k_plain,
    const OptionalTensor& cos, const OptionalTensor& sin, const at::Tensor& valid, const OptionalTensor& q_growth,
    const OptionalTensor& k_growth, double scale, std::optional<int64_t> window, std::optional<double> softcap,
    bool interleaved, const OptionalTensor& sinks, bool causal, const OptionalTensor& bias) {
  return function(
      QkArguments{
          q, k, q_plain, k_plain, cos, sin, valid, q_growth, k_growth, scale, window, softcap, interleaved, sinks,
          causal, bias});
}

}  // namespace pymultiling
