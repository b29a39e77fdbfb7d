// value_energy and value_gram on tensors. Both multiply pairs of heads that share a key/value head and sum the products
// over rows: value_energy for the attention output, whose rows are tokens, and value_gram for the weight of o_proj.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../optional_tensor.h"
#include "dispatch.h"
#include "documents.h"
#include "kernels/head_products.h"
#include "pair_weights.h"
#include "readable.h"

namespace pymultiling {
namespace {

// Returns (count, K, G, G, d) float64, with K key/value heads, G query heads to each of them, and d dimensions of a
// head:
//
//     products[c, k, g, h, j] = sum over the rows t of document c of x[t, kG + g, j] x[t, kG + h, j] for h <= g,
//     and zero for h > g.
at::Tensor head_products(
    const at::Tensor& x, int64_t kv_heads, int64_t size, const std::vector<Run>& runs, int64_t count) {
  const bool bfloat16 = is_bfloat16(x);
  const at::Tensor rows = contiguous_rows(x);
  const int64_t group = x.size(1) / (kv_heads * size), lines = (size + LINE - 1) / LINE;
  const at::Tensor products = at::zeros({count, kv_heads, group, group, size}, at::kDouble);
  const HeadProducts arguments{
      {rows.const_data_ptr(), rows.stride(0)},
      bfloat16,
      kv_heads,
      group,
      size,
      runs.data(),
      static_cast<int64_t>(runs.size()),
      products.mutable_data_ptr<double>()};
  const Kernels& kernel = kernels();
  at::parallel_for(0, kv_heads * lines, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; task++) kernel.head_products(arguments, task / lines, task % lines * LINE);
  });
  return products;
}

at::Tensor value_energy(
    const at::Tensor& attention, const at::Tensor& gram, const at::Tensor& documents, int64_t count,
    const OptionalTensor& /*offsets*/, const OptionalTensor& /*order*/) {
  TORCH_CHECK(
      gram.dim() == 4 && gram.size(2) == gram.size(3) &&
          gram.size(0) * gram.size(1) * gram.size(2) == attention.size(1),
      "gram must be (K, d, G, G) with K d G = ", attention.size(1), ", got ", gram.sizes());
  const int64_t kv_heads = gram.size(0), size = gram.size(1);
  const auto runs = document_runs(documents, attention.size(0), count);
  const at::Tensor products = head_products(attention, kv_heads, size, runs, count);
  const at::Tensor energy = (products * pair_weights(gram, at::kDouble)).sum({2, 3}).flatten(1).to(at::kFloat);
  std::vector<bool> has_tokens(count);
  for (const Run& run : runs)
    if (run.document >= 0) has_tokens[run.document] = true;
  for (int64_t document = 0; document < count; document++)
    if (!has_tokens[document]) energy[document].zero_();  // 0 times an infinite gram is NaN
  return energy;
}

at::Tensor value_gram(const at::Tensor& weight, int64_t kv_heads, int64_t size) {
  TORCH_CHECK(
      weight.dim() == 2 && kv_heads > 0 && size > 0 && weight.size(1) % (kv_heads * size) == 0,
      "weight must be (D, K G d), got ", weight.sizes());
  // All rows of the weight belong to one document, so they are summed together.
  const auto runs = document_runs(at::zeros({weight.size(0)}, at::kLong), weight.size(0), 1);
  // Heads of one query head each are the dimensions of one long head, whose lines fill all lanes.
  const bool is_single = weight.size(1) == kv_heads * size;
  const at::Tensor products =
      head_products(weight, is_single ? 1 : kv_heads, is_single ? kv_heads * size : size, runs, 1);
  const at::Tensor lower = products[0].permute({0, 3, 1, 2});
  const at::Tensor gram = (lower + lower.tril(-1).transpose(2, 3)).to(at::kFloat).contiguous();
  return gram.view({kv_heads, size, gram.size(2), gram.size(3)});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) {
  m.def(
      "value_energy(Tensor attention, Tensor gram, Tensor documents, int count, Tensor? offsets=None, "
      "Tensor? order=None) -> Tensor");
  m.def("value_gram(Tensor weight, int kv_heads, int size) -> Tensor");
}

TORCH_LIBRARY_IMPL(pymultiling_cpp, CPU, m) {
  m.impl("value_energy", &value_energy);
  m.impl("value_gram", &value_gram);
}

}  // namespace pymultiling
