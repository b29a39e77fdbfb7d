// normed_energy on tensors. kernels/normed_energy.cpp has the definition.
#include "kernels/normed_energy.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "../optional_tensor.h"
#include "bfloat16_products.h"
#include "dispatch.h"
#include "documents.h"
#include "pair_weights.h"
#include "readable.h"

namespace pymultiling {
namespace {

constexpr int64_t CHUNK = 256;  // tokens of a chunk, at least, and less than RUN more
// Outputs whose g^2 f is precise where products are bfloat16. The few largest outputs of a massive activation make
// nearly all of the rounding errors.
constexpr int64_t CORRECTED = 64;

// Tokens whose products with W are in memory at a time.
struct Chunk {
  const Run *first, *last;  // its runs
  int64_t begin, rows;      // its first token and number of tokens
};

std::vector<Chunk> split_tokens(const std::vector<Run>& runs) {
  std::vector<Chunk> chunks;
  for (const Run *first = runs.data(), *end = first + runs.size(), *last; first < end; first = last) {
    last = first + 1;
    while (last < end && last[-1].end - first->begin < CHUNK) last++;
    chunks.push_back({first, last, first->begin, last[-1].end - first->begin});
  }
  return chunks;
}

// f and g^2 f, which are multiplied with W: (tokens, D) float32, or as bfloat16.
//
// In bfloat16 f is exact, and g^2 f is rounded. Behind its columns follow the rounding errors of `corrected` columns,
// those with the largest errors. An odd number of columns becomes even with a column of zeros.
struct Factors {
  at::Tensor f, ggf, corrected;  // corrected: int64, undefined in float32

  bool narrow() const { return corrected.defined(); }

  // Returns columns of W, (D, columns), as `multiply` takes them.
  at::Tensor arrange(const at::Tensor& w) const { return narrow() ? pack_pairs(w, corrected) : w; }

  // Writes the products of f and of g^2 f with the columns, for the tokens of a chunk: (2, rows, columns) float32.
  void multiply(const at::Tensor& products, const Chunk& chunk, const at::Tensor& columns) const {
    const at::Tensor factors[] = {f.narrow(0, chunk.begin, chunk.rows), ggf.narrow(0, chunk.begin, chunk.rows)};
    for (int64_t i = 0; i < 2; i++) {
      at::Tensor product = products[i];
      narrow() ? bfloat16_products(product, factors[i], columns) : (void)at::mm_out(product, factors[i], columns);
    }
  }
};

// Returns x (tokens, columns), with a column of zeros if the number of columns is odd.
at::Tensor with_even_columns(const at::Tensor& x) { return at::constant_pad_nd(x, {0, x.size(1) % 2}).contiguous(); }

Factors bfloat16_factors(const at::Tensor& output, const at::Tensor& ggf) {
  const at::Tensor rounded = ggf.to(at::kBFloat16), errors = ggf - rounded;
  const at::Tensor corrected =
      std::get<1>(at::topk(errors.square().sum(0), std::min(CORRECTED, ggf.size(1)), 0, true, false));
  const at::Tensor corrections = errors.index_select(1, corrected).to(at::kBFloat16);
  return {
      with_even_columns(output), with_even_columns(at::cat({with_even_columns(rounded), corrections}, 1)), corrected};
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
  const bool narrow = is_bfloat16(output) && is_bfloat16(weight) && has_bfloat16_products();
  const at::Tensor w = narrow ? weight : weight.to(at::kFloat);
  const at::Tensor f = output.to(at::kFloat), g = multiplier.to(at::kFloat);
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
  const Factors factors = narrow ? bfloat16_factors(output, scaled * g) : Factors{f, scaled * g, {}};
  const auto chunks = split_tokens(runs);
  const int64_t width = group == 1 ? COLUMNS : COLUMNS / 2, panels = (size + width - 1) / width;
  const Kernels& kernel = kernels();
  // A task multiplies its columns of W by itself, so that results do not depend on the number of threads.
  at::parallel_for(0, heads * panels, 1, [&](int64_t first_task, int64_t last_task) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    for (int64_t task = first_task; task < last_task; task++) {
      const int64_t head = task / panels, first = task % panels * width, last = std::min(first + width, size);
      const at::Tensor head_weight = w.narrow(1, head * group * size, group * size);
      std::vector<at::Tensor> columns;  // of each query head
      for (int64_t h = 0; h < group; h++)
        columns.push_back(factors.arrange(head_weight.narrow(1, h * size + first, last - first)));
      for (const Chunk& chunk : chunks) {
        const at::Tensor products = at::empty({group, 2, chunk.rows, last - first}, at::kFloat);
        for (int64_t h = 0; h < group; h++) factors.multiply(products[h], chunk, columns[h]);
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
