// qk_estimate on tensors; qk_problem.h does the work.
#include "dispatch.h"
#include "qk_problem.h"

namespace pymultiling {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> qk_estimate(
    const at::Tensor& q, const at::Tensor& k, const OptionalTensor& q_plain, const OptionalTensor& k_plain,
    const OptionalTensor& cos, const OptionalTensor& sin, const at::Tensor& valid, const OptionalTensor& q_gain,
    const OptionalTensor& k_gain, double scale, std::optional<int64_t> window, std::optional<double> softcap,
    bool interleaved) {
  QkProblem problem({q, k, q_plain, k_plain, cos, sin, valid, q_gain, k_gain, scale, window, softcap, interleaved});
  const auto sums = problem.run(kernels().qk_estimate_tile, 2);  // the importance, and its variance
  return {sums.queries[0].to(at::kFloat), sums.keys[0].to(at::kFloat), sums.queries[1].sqrt().to(at::kFloat),
          sums.keys[1].sqrt().to(at::kFloat)};
}

}  // namespace pymultiling
