// What qk_importance and qk_estimate share on tensors: checks, the kernels' view of the problem, and running its tiles.
#pragma once

#include <vector>

#include "../qk_arguments.h"
#include "kernels/qk_importance.h"

namespace pymultiling {

class QkProblem {
 public:
  explicit QkProblem(const QkArguments& arguments);
  QkProblem(const QkProblem&) = delete;

  // Sums over the tiles: of the query neurons (outputs, B, H d) and of the key neurons (outputs, B, K d), float64.
  struct Sums {
    at::Tensor queries, keys;
  };

  // Runs `tile` on every tile, which leaves `outputs` numbers for each neuron of both sites. A tile writes its own
  // slot; slots are added in a fixed order, so the number of threads changes no bit.
  Sums run(void (*tile)(const QkImportance&, int64_t task, float* scratch), int64_t outputs);

 private:
  void hold_heads(const QkArguments& arguments);
  void hold_rotation(const QkArguments& arguments);
  void find_tokens(const at::Tensor& valid);
  void make_tasks();

  QkImportance a_{};
  int64_t batch_ = 0, heads_ = 0, longest_ = 0;
  std::vector<at::Tensor> held_;  // what a_ points into, as the next ones
  std::vector<int64_t> tokens_, offsets_ = {0}, panel_offsets_, tasks_;
};

}  // namespace pymultiling
