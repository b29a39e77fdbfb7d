// whole_norm_importance on tensors. kernels/whole_norm_tile.cpp has the equations.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "dispatch.h"
#include "kernels/whole_norm.h"
#include "parallel_tasks.h"
#include "qk_problem.h"

namespace pymultiling {
namespace {

constexpr int64_t BLOCK_ROWS = 256;      // query rows whose factors are in memory at a time
constexpr int64_t COLUMNS = 64;          // columns of a product that a task computes
constexpr double LARGEST_CHANGE = 0.25;  // of the attention scores, for which the bounds hold
// The second-order sums are accepted where bounds of what they leave out are at most this times (1 + the largest
// attention score), relative to the result. What they leave out is a tenth of its bound and less.
constexpr double TOLERANCE = 2e-5;

constexpr double LOG2_E = 1.4426950408889634;

// Calls compute(first, count) for parts of `width` columns on all threads. The parts do not depend on their number.
template <typename Compute>
void for_columns(int64_t columns, Compute compute, int64_t width = COLUMNS) {
  in_parallel((columns + width - 1) / width, [&](std::atomic<int64_t>& next, int64_t count) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    for (int64_t task; (task = next++) < count;) compute(task * width, std::min(width, columns - task * width));
  });
}

// The importance of neurons, and a bound of its error, infinite where it is unknown: (N,) each, float32.
struct Estimate {
  at::Tensor importance, error;
};

// One document: its attention, and t of its neurons, (tokens, H d) and (tokens, K d) float32.
struct Document {
  const QkProblem& problem;
  const QkImportance& attention;
  int64_t length, first_task;
  at::Tensor q_rescale, k_rescale;

  int64_t heads() const { return problem.heads(); }
  int64_t tiles() const { return (length + ROWS - 1) / ROWS; }
  int64_t task(int64_t head, int64_t tile) const { return first_task + head * tiles() + tiles() - 1 - tile; }

  // Calls tile(task, scratch) for tiles [first, last) of a head, on all threads.
  template <typename Tile>
  void for_tiles(int64_t head, int64_t first, int64_t last, Tile tile) const {
    in_parallel(last - first, [&](std::atomic<int64_t>& next, int64_t count) {
      const at::Tensor scratch = at::empty(problem.scratch_size(), at::kFloat);
      for (int64_t i; (i = next++) < count;) tile(task(head, last - 1 - i), scratch.mutable_data_ptr<float>());
    });
  }
};

// The sums of all query rows from which the importance is computed to second order.
class SecondOrder {
 public:
  explicit SecondOrder(const Document& document)
      : document_(document),
        stride_(QkImportance::keys_stride(document.length)),
        by_row_(at::empty({3, document.heads(), document.length}, at::kFloat)),
        by_key_(at::zeros({WholeNorm::KEY_SUMS, document.length}, at::kFloat)),
        own_(at::empty({document.k_rescale.size(1)}, at::kFloat)),
        matrix_(at::zeros({document.length, document.length}, at::kFloat)) {
    const int64_t rows = std::min(BLOCK_ROWS, document.length);
    u_ = at::empty({rows, stride_}, at::kFloat);
    v_ = at::empty({rows, stride_}, at::kFloat);
    tile_sums_ = at::empty({(rows + ROWS - 1) / ROWS, WholeNorm::KEY_SUMS, stride_}, at::kFloat);
    const int64_t kv_heads = document.attention.kv_heads, size = document.attention.size;
    for (int64_t kv = 0; kv < kv_heads; kv++) {
      const at::Tensor matrix = at::zeros_like(matrix_), diagonal = at::zeros({document.length}, at::kFloat);
      for (int64_t g = 0; g < document.attention.group; g++)
        add_head(kv * document.attention.group + g, matrix, diagonal);
      matrix.diagonal().add_(diagonal);
      at::Tensor own = own_.narrow(0, kv * size, size);
      quadratic_form(matrix, document.k_rescale.narrow(1, kv * size, size), own);
      matrix_.add_(matrix);
    }
  }

  Estimate queries() const {
    const int64_t heads = document_.heads(), size = document_.attention.size;
    const at::Tensor is_other = 1 - at::eye(heads, at::kFloat);
    const at::Tensor squares = at::mm(is_other, by_row_[0]), cubes = at::mm(is_other, by_row_[1]);
    const at::Tensor spread = std::get<0>(by_row_[2].max(0)).unsqueeze(1);
    Estimate result = empty(heads * size);
    const auto of_head = [&](int64_t h, int64_t) {
      const at::Tensor t = document_.q_rescale.narrow(1, h * size, size), square = t * t;
      result.importance.narrow(0, h * size, size).copy_((square * squares[h].unsqueeze(1)).sum(0));
      const at::Tensor error = (square * t * cubes[h].unsqueeze(1)).sum(0);
      result.error.narrow(0, h * size, size).copy_(where_small(std::get<0>((t * spread).max(0)), error));
    };
    for_columns(heads, of_head, 1);
    return result;
  }

  Estimate keys() const {
    const at::Tensor t = document_.k_rescale;
    Estimate result = empty(t.size(1));
    quadratic_form(matrix_, t, result.importance);
    result.importance.sub_(own_);
    const at::Tensor cubes = by_key_[WholeNorm::CUBE], rounding = by_key_[WholeNorm::ROUNDING],
                     largest = by_key_[WholeNorm::LARGEST].unsqueeze(1);
    for_columns(t.size(1), [&](int64_t first, int64_t count) {
      const at::Tensor part = t.narrow(1, first, count), square = part * part;
      const at::Tensor error = (square * part * cubes.unsqueeze(1)).sum(0) +
                               (square * rounding.unsqueeze(1)).sum(0) * std::numeric_limits<float>::epsilon();
      result.error.narrow(0, first, count).copy_(where_small(2 * std::get<0>((part * largest).max(0)), error));
    });
    return result;
  }

  double largest_score() const { return by_key_[WholeNorm::LARGEST].max().item<double>(); }

 private:
  static Estimate empty(int64_t neurons) {
    return {at::empty({neurons}, at::kFloat), at::empty({neurons}, at::kFloat)};
  }

  static at::Tensor where_small(const at::Tensor& change, const at::Tensor& error) {
    return error.masked_fill((change <= LARGEST_CHANGE).logical_not(), std::numeric_limits<float>::infinity());
  }

  // Adds a head's v^T u to `matrix`, (keys, keys), and its sum for the diagonal.
  void add_head(int64_t head, at::Tensor matrix, at::Tensor diagonal) {
    const int64_t length = document_.length;
    for (int64_t first = 0; first < length; first += BLOCK_ROWS) {
      const int64_t rows = std::min(BLOCK_ROWS, length - first), keys = first + rows;
      WholeNorm to{
          first,
          u_.mutable_data_ptr<float>(),
          v_.mutable_data_ptr<float>(),
          tile_sums_.mutable_data_ptr<float>(),
          by_row_[0][head].mutable_data_ptr<float>(),
          by_row_[1][head].mutable_data_ptr<float>(),
          by_row_[2][head].mutable_data_ptr<float>()};
      const int64_t first_tile = first / ROWS, tiles = (rows + ROWS - 1) / ROWS;
      document_.for_tiles(head, first_tile, first_tile + tiles, [&](int64_t task, float* scratch) {
        kernels().whole_norm_tile(document_.attention, to, task, scratch);
      });
      for_columns(keys, [&](int64_t column, int64_t count) {
        const int64_t above = std::max<int64_t>(column - first, 0);  // rows that see none of these keys
        matrix.narrow(0, 0, keys)
            .narrow(1, column, count)
            .addmm_(
                v_.narrow(0, above, rows - above).narrow(1, 0, keys).t(),
                u_.narrow(0, above, rows - above).narrow(1, column, count));
      });
      for (int64_t tile = 0; tile < tiles; tile++) {
        const at::Tensor sums = tile_sums_[tile].narrow(1, 0, length);
        diagonal.add_(sums[WholeNorm::DIAGONAL]);
        by_key_.narrow(0, WholeNorm::CUBE, 2).add_(sums.narrow(0, WholeNorm::CUBE, 2));
        at::Tensor largest = by_key_[WholeNorm::LARGEST];
        at::maximum_out(largest, largest, sums[WholeNorm::LARGEST]);
      }
    }
  }

  // Writes t . (matrix t) of every column t of `columns` (keys, N) to `result`, (N,).
  static void quadratic_form(const at::Tensor& matrix, const at::Tensor& columns, const at::Tensor& result) {
    for_columns(columns.size(1), [&](int64_t first, int64_t count) {
      const at::Tensor part = columns.narrow(1, first, count);
      result.narrow(0, first, count).copy_((at::mm(matrix, part) * part).sum(0));
    });
  }

  const Document& document_;
  int64_t stride_;
  at::Tensor by_row_;  // (3, H, keys): square, cube and spread
  at::Tensor by_key_;  // (KEY_SUMS, keys), summed over the heads
  at::Tensor own_;     // (K d,), of the heads of each key neuron
  at::Tensor matrix_;  // (keys, keys), of all heads
  at::Tensor u_, v_, tile_sums_;
};

// The columns `neurons` of t (keys, N), times log2(e), and columns of 0 up to a multiple of BLOCK.
at::Tensor chosen_growth(const at::Tensor& t, const at::Tensor& neurons) {
  const int64_t count = neurons.size(0);
  return at::constant_pad_nd(t.index_select(1, neurons), {0, round_up(count, BLOCK) - count}).mul_(LOG2_E);
}

// Returns the importance of some query neurons and some key neurons, computed key by key, float32.
std::tuple<at::Tensor, at::Tensor> key_by_key(
    const Document& document, const at::Tensor& query_neurons, const at::Tensor& key_neurons) {
  const int64_t size = document.attention.size, group = document.attention.group;
  const at::Tensor query_growth = chosen_growth(document.q_rescale, query_neurons);
  // The panel of the key neurons: (blocks, keys, BLOCK), its mean over the keys, and its largest magnitude.
  const at::Tensor key_growth = chosen_growth(document.k_rescale, key_neurons);
  const at::Tensor data = key_growth.unflatten(1, {key_growth.size(1) / BLOCK, BLOCK}).transpose(0, 1).contiguous();
  const at::Tensor mean = data.mean(1), largest = std::get<0>(data.abs().max(1));
  const int64_t width = query_growth.size(1) + key_growth.size(1), tiles = document.tiles();
  const at::Tensor slots = at::empty({document.heads() * tiles, width}, at::kFloat);
  const Rescaling rescaling{
      query_growth.size(1),
      key_growth.size(1),
      query_growth.mutable_data_ptr<float>(),
      {data.mutable_data_ptr<float>(), mean.mutable_data_ptr<float>(), largest.mutable_data_ptr<float>(), 1},
      document.first_task,
      slots.mutable_data_ptr<float>()};
  for (int64_t head = 0; head < document.heads(); head++)
    document.for_tiles(head, 0, tiles, [&](int64_t task, float* scratch) {
      kernels().rescaling_tile(document.attention, rescaling, task, scratch);
    });
  // Each head's sum, in a fixed order, counts for the neurons of the other heads.
  const at::Tensor by_head = slots.view({document.heads(), tiles, width}).sum(1, false, at::kDouble);
  const auto of_others = [&](int64_t first, const at::Tensor& neurons, int64_t heads_of_neuron) {
    const at::Tensor sums = by_head.narrow(1, first, neurons.size(0)).contiguous();
    const at::Tensor total = at::zeros({neurons.size(0)}, at::kDouble);
    for (int64_t n = 0; n < neurons.size(0); n++)
      for (int64_t h = 0; h < document.heads(); h++)
        if (h / heads_of_neuron != neurons.const_data_ptr<int64_t>()[n] / size)
          total.mutable_data_ptr<double>()[n] += sums.const_data_ptr<double>()[h * neurons.size(0) + n];
    return total.to(at::kFloat);
  };
  return {of_others(0, query_neurons, 1), of_others(query_growth.size(1), key_neurons, group)};
}

// Returns the indices of the neurons whose estimate is not accepted.
at::Tensor not_accepted(const Estimate& estimate, const at::Tensor& own, double tolerance) {
  return (estimate.error <= tolerance * (own + estimate.importance)).logical_not().nonzero().squeeze(1);
}

// Adds the importance of a document's neurons in the other heads to `q_own` (H d,) and `k_own` (K d,).
void add_other_heads(const Document& document, at::Tensor q_own, at::Tensor k_own) {
  Estimate q, k;
  at::Tensor query_neurons, key_neurons;
  if (document.attention.softcap == 0) {
    const SecondOrder sums(document);
    const double tolerance = TOLERANCE * (1 + sums.largest_score());
    q = sums.queries();
    k = sums.keys();
    query_neurons = not_accepted(q, q_own, tolerance);
    key_neurons = not_accepted(k, k_own, tolerance);
  } else {
    q = {at::empty_like(q_own), {}};
    k = {at::empty_like(k_own), {}};
    query_neurons = at::ones_like(q_own).nonzero().squeeze(1);
    key_neurons = at::ones_like(k_own).nonzero().squeeze(1);
  }
  if (query_neurons.numel() + key_neurons.numel() > 0) {
    const auto [of_queries, of_keys] = key_by_key(document, query_neurons, key_neurons);
    q.importance.index_copy_(0, query_neurons, of_queries);
    k.importance.index_copy_(0, key_neurons, of_keys);
  }
  q_own.add_(q.importance);
  k_own.add_(k.importance);
}

at::Tensor own_or_zeros(const OptionalTensor& own, const at::Tensor& x, const char* name) {
  const int64_t neurons = x.size(1) * x.size(3);
  if (!own) return at::zeros({x.size(0), neurons}, at::kFloat);
  TORCH_CHECK(own->sizes() == at::IntArrayRef({x.size(0), neurons}), name, " must be (", x.size(0), ", ", neurons, ")");
  return at::empty({x.size(0), neurons}, at::kFloat).copy_(*own);
}

std::tuple<at::Tensor, at::Tensor> whole_norm_importance(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& q_rescale, const at::Tensor& k_rescale,
    const at::Tensor& valid, double scale, std::optional<int64_t> window, std::optional<double> softcap,
    const OptionalTensor& q_own, const OptionalTensor& k_own) {
  const OptionalTensor none;
  QkProblem problem(
      {q, k, none, none, none, none, valid, none, none, scale, window, softcap, false, none, /*causal=*/true, none},
      /*rescales=*/true);
  const auto rescale_fits = [&](const at::Tensor& rescale, const at::Tensor& x) {
    return rescale.dim() == 3 && rescale.size(0) == x.size(0) && rescale.size(1) == x.size(2) &&
           rescale.size(2) == x.size(1) * x.size(3);
  };
  TORCH_CHECK(
      rescale_fits(q_rescale, q) && rescale_fits(k_rescale, k),
      "q_rescale and k_rescale must be (B, l, H d) and (B, l, K d)");
  const at::Tensor q_result = own_or_zeros(q_own, q, "q_own"), k_result = own_or_zeros(k_own, k, "k_own");
  const QkImportance& attention = problem.with_panels();
  int64_t first_task = 0;
  for (int64_t b = 0; b < q.size(0); b++) {
    const at::Tensor tokens = problem.tokens(b);
    const auto of_tokens = [&](const at::Tensor& t) { return t[b].index_select(0, tokens).to(at::kFloat); };
    const Document document{problem, attention, tokens.size(0), first_task, of_tokens(q_rescale), of_tokens(k_rescale)};
    first_task += document.heads() * document.tiles();
    if (document.length > 0) add_other_heads(document, q_result[b], k_result[b]);
  }
  return {q_result, k_result};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pymultiling_cpp, m) {
  m.def(
      "whole_norm_importance(Tensor q, Tensor k, Tensor q_rescale, Tensor k_rescale, Tensor valid, float scale, "
      "int? window, float? softcap, Tensor? q_own=None, Tensor? k_own=None) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(pymultiling_cpp, CPU, m) { m.impl("whole_norm_importance", &whole_norm_importance); }

}  // namespace pymultiling
