// qk_importance on tensors: the rotation as factors of n and of its partner, the list of valid tokens, two passes of
// tasks. A task writes its own slot; slots are added in a fixed order, so the number of threads changes no bit.
#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "documents.h"
#include "kernels/qk_importance.h"
#include "ops.h"

namespace pymultiling {
namespace {

at::Tensor float_heads(const at::Tensor& x, at::IntArrayRef shape, const char* name) {
  TORCH_CHECK(x.sizes() == shape && x.device().is_cpu() && x.is_floating_point(), name, " must be ", shape,
              " floating point on the CPU");
  const at::Tensor wide = x.to(at::kFloat);
  return wide.stride(3) == 1 ? wide : wide.contiguous();
}

Heads heads_of(const at::Tensor& x) {
  if (!x.defined()) return {nullptr, 0, 0, 0};
  return {x.const_data_ptr<float>(), x.stride(0), x.stride(1), x.stride(2)};
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

std::tuple<at::Tensor, at::Tensor> qk_importance(
    const at::Tensor& q, const at::Tensor& k, const OptionalTensor& q_plain, const OptionalTensor& k_plain,
    const OptionalTensor& cos, const OptionalTensor& sin, const at::Tensor& valid, const OptionalTensor& q_gain,
    const OptionalTensor& k_gain, double scale, std::optional<int64_t> window, std::optional<double> softcap,
    bool interleaved) {
  TORCH_CHECK(q.dim() == 4 && k.dim() == 4 && k.size(1) > 0 && q.size(1) % k.size(1) == 0,
              "q must be (B, H, l, d) and k (B, K, l, d), K dividing H");
  is_bfloat16(q);
  const int64_t batch = q.size(0), heads = q.size(1), length = q.size(2), size = q.size(3), kv_heads = k.size(1);
  const auto query_shape = q.sizes();
  const std::vector<int64_t> key_shape = {batch, kv_heads, length, size};
  TORCH_CHECK(valid.dim() == 2 && valid.size(0) == batch && valid.size(1) == length &&
                  valid.scalar_type() == at::kBool && valid.device().is_cpu(),
              "valid must be bool (", batch, ", ", length, ")");
  TORCH_CHECK(q_plain.has_value() == k_plain.has_value(), "q_plain and k_plain go together");
  TORCH_CHECK(q_plain || (!q_gain && !k_gain), "a gain needs q_plain and k_plain");
  TORCH_CHECK(cos.has_value() == sin.has_value(), "cos and sin go together");
  TORCH_CHECK(!window || *window > 0, "window must be positive");
  TORCH_CHECK(!softcap || *softcap > 0, "softcap must be positive");

  const at::Tensor queries = float_heads(q, query_shape, "q"), keys = float_heads(k, key_shape, "k");
  at::Tensor plain_queries, plain_keys, query_gain, key_gain;
  if (q_plain) plain_queries = float_heads(*q_plain, query_shape, "q_plain");
  if (k_plain) plain_keys = float_heads(*k_plain, key_shape, "k_plain");
  if (q_gain) query_gain = float_heads(*q_gain, query_shape, "q_gain");
  if (k_gain) key_gain = float_heads(*k_gain, key_shape, "k_gain");

  // Only the first `turned` dimensions turn; the others are their own partners, with cosine 1 and sine 0.
  at::Tensor partner = at::arange(size, at::kLong), near, far;
  if (cos && q_plain) {
    const int64_t turned = cos->size(-1), half = turned / 2;
    TORCH_CHECK(cos->dim() == 3 && cos->sizes() == sin->sizes() && (cos->size(0) == 1 || cos->size(0) == batch) &&
                    cos->size(1) == length && turned <= size && turned % 2 == 0,
                "cos and sin must be (B or 1, ", length, ", r), r even and at most ", size);
    at::Tensor sign = at::ones(size, at::kFloat);
    int64_t* of = partner.mutable_data_ptr<int64_t>();
    for (int64_t m = 0; m < half; m++) {
      const int64_t first = interleaved ? 2 * m : m, second = interleaved ? first + 1 : m + half;
      of[first] = second;
      of[second] = first;
      sign.mutable_data_ptr<float>()[second] = -1;
    }
    const std::vector<int64_t> rest = {cos->size(0), length, size - turned};
    near = at::cat({cos->to(at::kFloat), at::ones(rest, at::kFloat)}, 2);
    far = at::cat({sin->to(at::kFloat), at::zeros(rest, at::kFloat)}, 2).index_select(2, partner).mul_(sign);
  }

  QkImportance a{};
  a.q = heads_of(queries);
  a.k = heads_of(keys);
  a.q_plain = heads_of(plain_queries);
  a.k_plain = heads_of(plain_keys);
  a.q_gain = heads_of(query_gain);
  a.k_gain = heads_of(key_gain);
  if (near.defined())
    a.rotation = {near.const_data_ptr<float>(), far.const_data_ptr<float>(), near.size(0) > 1 ? length * size : 0};
  a.partner = partner.const_data_ptr<int64_t>();
  a.kv_heads = kv_heads;
  a.group = heads / kv_heads;
  a.size = size;
  a.scale = static_cast<float>(scale);
  a.softcap = static_cast<float>(softcap.value_or(0));
  a.window = window.value_or(std::numeric_limits<int64_t>::max());

  const at::Tensor contiguous_valid = valid.contiguous();
  std::vector<int64_t> tokens, offsets = {0}, panel_offsets, tasks;
  int64_t panels_size = 0, longest = 0;
  for (int64_t b = 0; b < batch; b++) {
    for (int64_t t = 0; t < length; t++)
      if (contiguous_valid.const_data_ptr<bool>()[b * length + t]) tokens.push_back(t);
    offsets.push_back(tokens.size());
    const int64_t l = offsets[b + 1] - offsets[b];
    longest = std::max(longest, l);
    panel_offsets.push_back(panels_size);
    panels_size += kv_heads * a.panels_size(l);
    // A head's tiles follow each other, so that its panels stay in L2; the longest come first, to end evenly.
    for (int64_t h = 0; h < heads; h++)
      for (int64_t tile = (l + ROWS - 1) / ROWS - 1; tile >= 0; tile--) tasks.insert(tasks.end(), {b, h, tile});
  }
  const int64_t task_count = tasks.size() / 3, width = a.width();
  const at::Tensor panels = at::empty(panels_size, at::kFloat);
  const at::Tensor sums = at::empty(task_count * 2 * width, at::kFloat);
  a.tokens = tokens.data();
  a.offsets = offsets.data();
  a.tasks = tasks.data();
  a.panels = panels.mutable_data_ptr<float>();
  a.panel_offsets = panel_offsets.data();
  a.sums = sums.mutable_data_ptr<float>();

  const Kernels& kernel = kernels();
  in_parallel(batch * kv_heads, [&](std::atomic<int64_t>& next, int64_t count) {
    for (int64_t task; (task = next++) < count;)
      if (a.length(task / kv_heads) > 0) kernel.qk_panels(a, task / kv_heads, task % kv_heads);
  });
  in_parallel(task_count, [&](std::atomic<int64_t>& next, int64_t count) {
    const at::Tensor scratch = at::empty(a.scratch_size(longest), at::kFloat);
    for (int64_t task; (task = next++) < count;) kernel.qk_tile(a, task, scratch.mutable_data_ptr<float>());
  });

  const at::Tensor query_sums = at::zeros({batch, heads, size}, at::kDouble);
  const at::Tensor key_sums = at::zeros({batch, kv_heads, size}, at::kDouble);
  for (int64_t task = 0; task < task_count; task++) {
    const int64_t b = tasks[3 * task], h = tasks[3 * task + 1];
    const float* of_queries = a.sums + task * 2 * width;
    const float* of_keys = a.one_site() ? of_queries : of_queries + width;
    double* to_queries = query_sums.mutable_data_ptr<double>() + (b * heads + h) * size;
    double* to_keys = key_sums.mutable_data_ptr<double>() + (b * kv_heads + h / a.group) * size;
    for (int64_t n = 0; n < size; n++) {
      to_queries[n] += of_queries[n];
      to_keys[n] += of_keys[n];
    }
  }
  return {query_sums.to(at::kFloat).flatten(1), key_sums.to(at::kFloat).flatten(1)};
}

}  // namespace pymultiling
