// qk_estimate on tensors, based on qk_problem.h.
#include <torch/library.h>

#include <tuple>

#include "dispatch.h"
#include "qk_problem.h"

namespace pymultiling {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> qk_estimate(const QkArguments& arguments) {
  QkProblem problem(arguments);
  const auto sums = problem.run(kernels().qk_estimate_tile, 2);  // the importance and its variance
  return {
      sums.queries[0].to(at::kFloat), sums.keys[0].to(at::kFloat), sums.queries[1].sqrt().to(at::kFloat),
      sums.keys[1].sqrt().to(at::kFloat)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) {
  m.def(qk_schema("qk_estimate", "(Tensor, Tensor, Tensor, Tensor)").c_str());
}

TORCH_LIBRARY_IMPL(pymultiling_cpp, CPU, m) { m.impl("qk_estimate", &with_packed_arguments<qk_estimate>); }

}  // namespace pymultiling
