#include "qk_problem.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <limits>

#include "dispatch.h"
#include "readable.h"

namespace pymultiling {
namespace {

Heads heads_of(const at::Tensor& x) { return {x.const_data_ptr<float>(), x.stride(0), x.stride(1), x.stride(2)}; }

void check(const QkArguments& x) {
  TORCH_CHECK(
      x.q.dim() == 4 && x.k.dim() == 4 && x.k.size(1) > 0 && x.q.size(1) % x.k.size(1) == 0,
      "q must be (B, H, l, d) and k (B, K, l, d), K dividing H");
  is_bfloat16(x.q);
  TORCH_CHECK(
      x.valid.dim() == 2 && x.valid.size(0) == x.q.size(0) && x.valid.size(1) == x.q.size(2) &&
          x.valid.scalar_type() == at::kBool && x.valid.device().is_cpu(),
      "valid must be bool (", x.q.size(0), ", ", x.q.size(2), ")");
  TORCH_CHECK(x.q_plain.has_value() == x.k_plain.has_value(), "q_plain and k_plain go together");
  TORCH_CHECK(x.q_plain || (!x.q_gain && !x.k_gain), "a gain needs q_plain and k_plain");
  TORCH_CHECK(x.cos.has_value() == x.sin.has_value(), "cos and sin go together");
  TORCH_CHECK(!x.window || *x.window > 0, "window must be positive");
  TORCH_CHECK(!x.softcap || *x.softcap > 0, "softcap must be positive");
}

// Runs tasks [0, count) on all threads, each taking the next free one: rows further down have more keys.
template <typename Task>
void in_parallel(int64_t count, Task task) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(count, at::get_num_threads()), 1, [&](int64_t first, int64_t last) {
    for (; first < last; first++) task(next, count);
  });
}

}  // namespace

QkProblem::QkProblem(const QkArguments& x) {
  check(x);
  batch_ = x.q.size(0);
  heads_ = x.q.size(1);
  a_.kv_heads = x.k.size(1);
  a_.group = heads_ / a_.kv_heads;
  a_.size = x.q.size(3);
  a_.scale = static_cast<float>(x.scale);
  a_.softcap = static_cast<float>(x.softcap.value_or(0));
  a_.window = x.window.value_or(std::numeric_limits<int64_t>::max());
  hold_heads(x);
  hold_rotation(x);
  find_tokens(x.valid);
  make_tasks();
}

void QkProblem::hold_heads(const QkArguments& x) {
  const std::vector<int64_t> of_queries = x.q.sizes().vec(), of_keys = {batch_, a_.kv_heads, x.q.size(2), a_.size};
  const auto hold = [&](const at::Tensor& given, const std::vector<int64_t>& shape, const char* name) {
    TORCH_CHECK(
        given.sizes() == at::IntArrayRef(shape) && given.device().is_cpu() && given.is_floating_point(), name,
        " must be ", at::IntArrayRef(shape), " floating point on the CPU");
    const at::Tensor wide = given.to(at::kFloat);
    held_.push_back(wide.stride(3) == 1 ? wide : wide.contiguous());
    return heads_of(held_.back());
  };
  a_.q = hold(x.q, of_queries, "q");
  a_.k = hold(x.k, of_keys, "k");
  if (x.q_plain) a_.q_plain = hold(*x.q_plain, of_queries, "q_plain");
  if (x.k_plain) a_.k_plain = hold(*x.k_plain, of_keys, "k_plain");
  if (x.q_gain) a_.q_gain = hold(*x.q_gain, of_queries, "q_gain");
  if (x.k_gain) a_.k_gain = hold(*x.k_gain, of_keys, "k_gain");
}

// Only the first `turned` dimensions turn; the others are their own partners, with cosine 1 and sine 0.
void QkProblem::hold_rotation(const QkArguments& x) {
  const int64_t length = x.q.size(2), size = a_.size;
  at::Tensor partner = at::arange(size, at::kLong);
  int64_t* of = partner.mutable_data_ptr<int64_t>();
  held_.push_back(partner);
  a_.partner = of;
  if (!x.cos || !x.q_plain) return;
  const int64_t turned = x.cos->size(-1), half = turned / 2;
  TORCH_CHECK(
      x.cos->dim() == 3 && x.cos->sizes() == x.sin->sizes() && (x.cos->size(0) == 1 || x.cos->size(0) == batch_) &&
          x.cos->size(1) == length && turned <= size && turned % 2 == 0,
      "cos and sin must be (B or 1, ", length, ", r), r even and at most ", size);
  at::Tensor sign = at::ones(size, at::kFloat);
  for (int64_t m = 0; m < half; m++) {
    const int64_t first = x.interleaved ? 2 * m : m, second = x.interleaved ? first + 1 : m + half;
    of[first] = second;
    of[second] = first;
    sign.mutable_data_ptr<float>()[second] = -1;
  }
  const std::vector<int64_t> rest = {x.cos->size(0), length, size - turned};
  const at::Tensor near = at::cat({x.cos->to(at::kFloat), at::ones(rest, at::kFloat)}, 2);
  const at::Tensor far =
      at::cat({x.sin->to(at::kFloat), at::zeros(rest, at::kFloat)}, 2).index_select(2, partner).mul_(sign);
  held_.insert(held_.end(), {near, far});
  a_.rotation = {near.const_data_ptr<float>(), far.const_data_ptr<float>(), near.size(0) > 1 ? length * size : 0};
}

void QkProblem::find_tokens(const at::Tensor& valid) {
  const at::Tensor contiguous = valid.contiguous();
  const int64_t length = valid.size(1);
  for (int64_t b = 0; b < batch_; b++) {
    for (int64_t t = 0; t < length; t++)
      if (contiguous.const_data_ptr<bool>()[b * length + t]) tokens_.push_back(t);
    offsets_.push_back(tokens_.size());
  }
  a_.tokens = tokens_.data();
  a_.offsets = offsets_.data();
}

void QkProblem::make_tasks() {
  int64_t panels_size = 0;
  for (int64_t b = 0; b < batch_; b++) {
    const int64_t l = a_.length(b);
    longest_ = std::max(longest_, l);
    panel_offsets_.push_back(panels_size);
    panels_size += a_.kv_heads * a_.panels_size(l);
    // A head's tiles follow each other, so that its panels stay in L2; the longest come first, to end evenly.
    for (int64_t h = 0; h < heads_; h++)
      for (int64_t tile = (l + ROWS - 1) / ROWS - 1; tile >= 0; tile--) tasks_.insert(tasks_.end(), {b, h, tile});
  }
  held_.push_back(at::empty(panels_size, at::kFloat));
  a_.panels = held_.back().mutable_data_ptr<float>();
  a_.panel_offsets = panel_offsets_.data();
  a_.tasks = tasks_.data();
}

QkProblem::Sums QkProblem::run(void (*tile)(const QkImportance&, int64_t, float*), int64_t outputs) {
  const int64_t task_count = tasks_.size() / 3, width = a_.width(), size = a_.size;
  const at::Tensor slots = at::empty(task_count * 2 * outputs * width, at::kFloat);
  a_.sums = slots.mutable_data_ptr<float>();

  in_parallel(batch_ * a_.kv_heads, [&](std::atomic<int64_t>& next, int64_t count) {
    for (int64_t task; (task = next++) < count;)
      if (a_.length(task / a_.kv_heads) > 0) kernels().qk_panels(a_, task / a_.kv_heads, task % a_.kv_heads);
  });
  in_parallel(task_count, [&](std::atomic<int64_t>& next, int64_t count) {
    const at::Tensor scratch = at::empty(a_.scratch_size(longest_), at::kFloat);
    for (int64_t task; (task = next++) < count;) tile(a_, task, scratch.mutable_data_ptr<float>());
  });

  const at::Tensor query_sums = at::zeros({outputs, batch_, heads_, size}, at::kDouble);
  const at::Tensor key_sums = at::zeros({outputs, batch_, a_.kv_heads, size}, at::kDouble);
  for (int64_t task = 0; task < task_count; task++) {
    const int64_t b = tasks_[3 * task], h = tasks_[3 * task + 1];
    const float* of_queries = a_.sums + task * 2 * outputs * width;
    const float* of_keys = a_.one_site() ? of_queries : of_queries + outputs * width;
    for (int64_t i = 0; i < outputs; i++) {
      double* to_queries = query_sums.mutable_data_ptr<double>() + ((i * batch_ + b) * heads_ + h) * size;
      double* to_keys = key_sums.mutable_data_ptr<double>() + ((i * batch_ + b) * a_.kv_heads + h / a_.group) * size;
      for (int64_t n = 0; n < size; n++) {
        to_queries[n] += of_queries[i * width + n];
        to_keys[n] += of_keys[i * width + n];
      }
    }
  }
  return {query_sums.flatten(2), key_sums.flatten(2)};
}

}  // namespace pymultiling
