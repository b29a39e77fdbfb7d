// normed_energy on tensors. kernels/normed_energy.cpp has the definition.
#include "kernels/normed_energy.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "../optional_tensor.h"
#include "dispatch.h"
#include "documents.h"
#include "pair_weights.h"
#include "readable.h"

namespace pymultiling {
namespace {

constexpr int64_t CHUNK = 256;  // tokens of a chunk, at least, and less than RUN more

// Tokens whose products with W are in memory at a time.
struct Chunk {
  const Run *first, *last;  // its runs
  int64_t begin, rows;      // its first token and number of tokens
  at::Tensor factors;       // (2 rows, D): f and behind it g^2 f
};

std::vector<Chunk> split_tokens(const std::vector<Run>& runs, const at::Tensor& f, const at::Tensor& ggf) {
  std::vector<Chunk> chunks;
  for (const Run *first = runs.data(), *end = first + runs.size(), *last; first < end; first = last) {
    last = first + 1;
    while (last < end && last[-1].end - first->begin < CHUNK) last++;
    const int64_t begin = first->begin, rows = last[-1].end - begin;
    chunks.push_back({first, last, begin, rows, at::cat({f.narrow(0, begin, rows), ggf.narrow(0, begin, rows)})});
  }
  return chunks;
}

std::tuple<at::Tensor, at::Tensor> normed_energy(
    const at::Tensor& x, const at::Tensor& output, const at::Tensor& weight, const at::Tensor& multiplier,
    const at::Tensor& gram, const at::Tensor& scaled_gram, double eps, const at::Tensor& documents, int64_t count,
    bool columns, const OptionalTensor& /*offsets*/, const OptionalTensor& /*order*/) {
  const bool bfloat16 = is_bfloat16(x);
  const at::Tensor rows = contiguous_rows(x);
  const auto runs = document_runs(documents, x.size(0), count);
  TORCH_CHECK(
      gram.dim() == 4 && gram.size(2) == gram.size(3) && gram.numel() == x.size(1) * gram.size(2) &&
          scaled_gram.sizes() == gram.sizes() && weight.dim() == 2 && weight.size(1) == x.size(1) &&
          output.dim() == 2 && output.size(0) == x.size(0) && output.size(1) == weight.size(0) &&
          multiplier.dim() == 1 && multiplier.size(0) == weight.size(0),
      "x, output, weight, multiplier and the grams must be (tokens, N), (tokens, D), (D, N), (D,) and (K, d, G, G)");
  const int64_t group = gram.size(2);
  // Neurons of one column are the dimensions of one long head.
  const int64_t heads = group == 1 ? 1 : gram.size(0), size = group == 1 ? x.size(1) : gram.size(1);
  const int64_t outputs = weight.size(0);
  const at::Tensor w = weight.to(at::kFloat), f = output.to(at::kFloat), g = multiplier.to(at::kFloat);
  const at::Tensor scaled = f * g;
  const at::Tensor square = f.square().mean(1) + eps, scaled_square = scaled.square().sum(1);
  const at::Tensor pairs = pair_weights(gram, at::kFloat), scaled_pairs = pair_weights(scaled_gram, at::kFloat);
  at::Tensor energy = at::zeros({count, heads * size}, at::kDouble);
  at::Tensor column_energy = at::zeros({columns ? count : 0, x.size(1)}, at::kDouble);
  const bool separate = columns && group > 1;
  const NormedEnergy arguments{
      {rows.const_data_ptr(), rows.stride(0)},
      bfloat16,
      heads,
      group,
      size,
      static_cast<float>(outputs),
      static_cast<float>(eps),
      square.const_data_ptr<float>(),
      scaled_square.const_data_ptr<float>(),
      pairs.const_data_ptr<float>(),
      scaled_pairs.const_data_ptr<float>(),
      energy.mutable_data_ptr<double>(),
      separate ? column_energy.mutable_data_ptr<double>() : nullptr};
  const auto chunks = split_tokens(runs, f, scaled * g);
  const int64_t width = group == 1 ? COLUMNS : COLUMNS / 2, panels = (size + width - 1) / width;
  const Kernels& kernel = kernels();
  // A task multiplies its columns of W by itself, so that results do not depend on the number of threads.
  at::parallel_for(0, heads * panels, 1, [&](int64_t first_task, int64_t last_task) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    for (int64_t task = first_task; task < last_task; task++) {
      const int64_t head = task / panels, first = task % panels * width, last = std::min(first + width, size);
      const at::Tensor head_weight = w.narrow(1, head * group * size, group * size);
      for (const Chunk& chunk : chunks) {
        const at::Tensor products = at::empty({group, 2 * chunk.rows, last - first}, at::kFloat);
        for (int64_t h = 0; h < group; h++) {
          at::Tensor product = products[h];
          at::mm_out(product, chunk.factors, head_weight.narrow(1, h * size + first, last - first));
        }
        kernel.normed_energy(
            arguments, {head, first, last, chunk.first, chunk.last - chunk.first, chunk.begin, chunk.rows,
                        products.const_data_ptr<float>()});
      }
    }
  });
  energy = energy.to(at::kFloat);
  return {energy, separate ? column_energy.to(at::kFloat) : columns ? energy.clone() : column_energy.to(at::kFloat)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) {
  m.def(
      "normed_energy(Tensor x, Tensor output, Tensor weight, Tensor multiplier, Tensor gram, Tensor scaled_gram, "
      "float eps, Tensor documents, int count, bool columns, Tensor? offsets=None, Tensor? order=None) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(pymultiling_cpp, CPU, m) { m.impl("normed_energy", &normed_energy); }

}  // namespace pymultiling
