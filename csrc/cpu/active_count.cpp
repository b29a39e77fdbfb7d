// active_count on tensors: (count, N), how many tokens of each document have x > 0. `documents` has the document of
// every token, `count` is the number of documents.
#include <torch/library.h>

#include "../optional_tensor.h"
#include "columns.h"
#include "dispatch.h"

namespace pymultiling {
namespace {

at::Tensor active_count(
    const at::Tensor& x, const at::Tensor& documents, int64_t count, const OptionalTensor& /*offsets*/,
    const OptionalTensor& /*order*/) {
  return column_sums(x, documents, count, kernels().active_count);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) {
  m.def("active_count(Tensor x, Tensor documents, int count, Tensor? offsets=None, Tensor? order=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(pymultiling_cpp, CPU, m) { m.impl("active_count", &active_count); }

}  // namespace pymultiling
