// column_energy on tensors: (count, N), the sum of x^2 over the tokens of each document. `documents` has the document
// of every token, `count` is the number of documents.
#include <torch/library.h>

#include "../optional_tensor.h"
#include "columns.h"
#include "dispatch.h"

namespace pymultiling {
namespace {

at::Tensor column_energy(
    const at::Tensor& x, const at::Tensor& documents, int64_t count, const OptionalTensor& /*offsets*/,
    const OptionalTensor& /*order*/) {
  return column_sums(x, documents, count, kernels().column_energy).to(at::kFloat);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) {
  m.def("column_energy(Tensor x, Tensor documents, int count, Tensor? offsets=None, Tensor? order=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(pymultiling_cpp, CPU, m) { m.impl("column_energy", &column_energy); }

}  // namespace pymultiling
