// What qk_importance, qk_estimate and whole_norm_importance share on tensors: checks, the kernels' view of the problem,
// and running its tiles.
#pragma once

#include <vector>

#include "../qk_arguments.h"
#include "kernels/qk_importance.h"

namespace pymultiling {

// A rotation of (.., l, d) heads, as `Rotation` describes it: direct and cross, (B or 1, l, d) float32, and the
// partners of the dimensions, (d,) int64.
struct RotationTables {
  at::Tensor direct, cross, partner;
};

// Returns the tables of a rotation by cos and sin, (B or 1, l, r), of heads of `size` dimensions.
RotationTables rotation_tables(const at::Tensor& cos, const at::Tensor& sin, int64_t size, bool interleaved);

class QkProblem {
 public:
  // `rescales`: see QkImportance.
  explicit QkProblem(const QkArguments& arguments, bool rescales = false);
  // Under LayerNorms, with the tensors of the same names in QkImportance, (B, heads, l, d) float32.
  struct Centred {
    at::Tensor q_normed, k_normed, q_gain, k_gain, q_share, k_share;
  };
  QkProblem(const QkArguments& arguments, const Centred& centred);
  QkProblem(const QkProblem&) = delete;

  // The sums over the tiles, float64: of the query neurons (outputs, B, H d) and of the key neurons (outputs, B, K d).
  struct Sums {
    at::Tensor queries, keys;
  };

  // Fills the panels, and returns the problem as the kernels see it.
  const QkImportance& with_panels();

  int64_t documents() const { return batch_; }
  int64_t heads() const { return heads_; }
  int64_t scratch_size() const { return kernel_arguments_.scratch_size(longest_); }
  // The positions of a document's valid tokens, int64.
  at::Tensor tokens(int64_t document) const;

  // Runs `tile` on every tile. It writes `outputs` numbers for each neuron of both sites. Every tile writes to its own
  // slot, and the slots are added in a fixed order, so results do not depend on the number of threads.
  Sums run(void (*tile)(const QkImportance&, int64_t task, float* scratch), int64_t outputs);

 private:
  void set_up(const QkArguments& arguments);
  void set_heads(const QkArguments& arguments);
  void set_rotation(const QkArguments& arguments);
  void find_tokens(const at::Tensor& valid);
  void make_tasks();

  QkImportance kernel_arguments_{};
  int64_t batch_ = 0, heads_ = 0, longest_ = 0;
  // The tensors, and below the vectors, that kernel_arguments_ points into.
  std::vector<at::Tensor> tensors_;
  std::vector<int64_t> tokens_, offsets_ = {0}, panel_offsets_, tasks_;
};

}  // namespace pymultiling
