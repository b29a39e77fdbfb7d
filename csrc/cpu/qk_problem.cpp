#include "qk_problem.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "dispatch.h"
#include "parallel_tasks.h"
#include "readable.h"

namespace pymultiling {
namespace {

Heads heads_of(const at::Tensor& x) { return {x.const_data_ptr<float>(), x.stride(0), x.stride(1), x.stride(2)}; }

void check_arguments(const QkArguments& x) {
  TORCH_CHECK(
      x.q.dim() == 4 && x.k.dim() == 4 && x.k.size(1) > 0 && x.q.size(1) % x.k.size(1) == 0,
      "q must be (B, H, l, d) and k (B, K, l, d), where K divides H");
  is_bfloat16(x.q);  // raises for a dtype other than float32 and bfloat16
  TORCH_CHECK(
      x.valid.dim() == 2 && x.valid.size(0) == x.q.size(0) && x.valid.size(1) == x.q.size(2) &&
          x.valid.scalar_type() == at::kBool && x.valid.device().is_cpu(),
      "valid must be a bool tensor of shape (", x.q.size(0), ", ", x.q.size(2), ") on the CPU");
  TORCH_CHECK(x.q_plain.has_value() == x.k_plain.has_value(), "q_plain and k_plain must be given together");
  TORCH_CHECK(x.q_plain || (!x.q_growth && !x.k_growth), "a growth needs q_plain and k_plain");
  TORCH_CHECK(x.cos.has_value() == x.sin.has_value(), "cos and sin must be given together");
  TORCH_CHECK(!x.window || *x.window > 0, "window must be positive");
  TORCH_CHECK(!x.softcap || *x.softcap > 0, "softcap must be positive");
  TORCH_CHECK(
      !x.sinks || (x.sinks->dim() == 1 && x.sinks->size(0) == x.q.size(1) && x.sinks->device().is_cpu() &&
                   x.sinks->is_floating_point()),
      "sinks must be a floating point tensor of shape (", x.q.size(1), ") on the CPU");
  TORCH_CHECK(
      !x.bias || (x.bias->dim() == 4 && (x.bias->size(0) == 1 || x.bias->size(0) == x.q.size(0)) &&
                  x.bias->size(1) == x.q.size(1) && x.bias->size(2) == x.q.size(2) && x.bias->size(3) == x.q.size(2) &&
                  x.bias->device().is_cpu() && x.bias->is_floating_point() && !x.softcap),
      "bias must be a floating point tensor of shape (B or 1, H, l, l) on the CPU, without a soft cap");
}

}  // namespace

// Only the first r dimensions rotate. The others are their own partners, with cosine 1 and sine 0.
RotationTables rotation_tables(const at::Tensor& cos, const at::Tensor& sin, int64_t size, bool interleaved) {
  const int64_t rotary_size = cos.size(-1), half = rotary_size / 2;
  const at::Tensor partner = at::arange(size, at::kLong), sign = at::ones(size, at::kFloat);
  for (int64_t m = 0; m < half; m++) {
    const int64_t first = interleaved ? 2 * m : m, second = interleaved ? first + 1 : m + half;
    partner.mutable_data_ptr<int64_t>()[first] = second;
    partner.mutable_data_ptr<int64_t>()[second] = first;
    sign.mutable_data_ptr<float>()[second] = -1;
  }
  const std::vector<int64_t> rest = {cos.size(0), cos.size(1), size - rotary_size};
  const at::Tensor direct = at::cat({cos.to(at::kFloat), at::ones(rest, at::kFloat)}, 2);
  const at::Tensor cross =
      at::cat({sin.to(at::kFloat), at::zeros(rest, at::kFloat)}, 2).index_select(2, partner).mul_(sign);
  return {direct, cross, partner};
}

QkProblem::QkProblem(const QkArguments& x, bool rescales) {
  kernel_arguments_.rescales = rescales;
  set_up(x);
}

QkProblem::QkProblem(const QkArguments& x, const Centred& centred) {
  const auto keep = [&](const at::Tensor& tensor) {
    tensors_.push_back(tensor);
    return heads_of(tensor);
  };
  kernel_arguments_.q_normed = keep(centred.q_normed);
  kernel_arguments_.k_normed = keep(centred.k_normed);
  kernel_arguments_.q_gain = keep(centred.q_gain);
  kernel_arguments_.k_gain = keep(centred.k_gain);
  kernel_arguments_.q_share = keep(centred.q_share);
  kernel_arguments_.k_share = keep(centred.k_share);
  set_up(x);
}

void QkProblem::set_up(const QkArguments& x) {
  check_arguments(x);
  batch_ = x.q.size(0);
  heads_ = x.q.size(1);
  kernel_arguments_.kv_heads = x.k.size(1);
  kernel_arguments_.group = heads_ / kernel_arguments_.kv_heads;
  kernel_arguments_.size = x.q.size(3);
  kernel_arguments_.scale = static_cast<float>(x.scale);
  kernel_arguments_.softcap = static_cast<float>(x.softcap.value_or(0));
  kernel_arguments_.window = x.window.value_or(std::numeric_limits<int64_t>::max());
  kernel_arguments_.causal = x.causal;
  set_heads(x);
  if (x.sinks) {
    tensors_.push_back(x.sinks->to(at::kFloat).contiguous());
    kernel_arguments_.sinks = tensors_.back().const_data_ptr<float>();
  }
  if (x.bias) {
    tensors_.push_back(x.bias->to(at::kFloat).contiguous());
    const int64_t length = x.q.size(2), batch_stride = x.bias->size(0) > 1 ? heads_ * length * length : 0;
    kernel_arguments_.bias = {tensors_.back().const_data_ptr<float>(), batch_stride, length * length, length};
  }
  set_rotation(x);
  find_tokens(x.valid);
  make_tasks();
}

void QkProblem::set_heads(const QkArguments& x) {
  const std::vector<int64_t> query_shape = x.q.sizes().vec(),
                             key_shape = {batch_, kernel_arguments_.kv_heads, x.q.size(2), kernel_arguments_.size};
  const auto keep = [&](const at::Tensor& tensor, const std::vector<int64_t>& shape, const char* name) {
    TORCH_CHECK(
        tensor.sizes() == at::IntArrayRef(shape) && tensor.device().is_cpu() && tensor.is_floating_point(), name,
        " must be a floating point tensor of shape ", at::IntArrayRef(shape), " on the CPU");
    const at::Tensor wide = tensor.to(at::kFloat);
    tensors_.push_back(wide.stride(3) == 1 ? wide : wide.contiguous());
    return heads_of(tensors_.back());
  };
  kernel_arguments_.q = keep(x.q, query_shape, "q");
  kernel_arguments_.k = keep(x.k, key_shape, "k");
  if (x.q_plain) kernel_arguments_.q_plain = keep(*x.q_plain, query_shape, "q_plain");
  if (x.k_plain) kernel_arguments_.k_plain = keep(*x.k_plain, key_shape, "k_plain");
  if (x.q_growth) kernel_arguments_.q_growth = keep(*x.q_growth, query_shape, "q_growth");
  if (x.k_growth) kernel_arguments_.k_growth = keep(*x.k_growth, key_shape, "k_growth");
}

void QkProblem::set_rotation(const QkArguments& x) {
  const int64_t length = x.q.size(2), size = kernel_arguments_.size;
  if (!x.cos || !x.q_plain) {
    tensors_.push_back(at::arange(size, at::kLong));
    kernel_arguments_.partner = tensors_.back().const_data_ptr<int64_t>();
    return;
  }
  const int64_t rotary_size = x.cos->size(-1);
  TORCH_CHECK(
      x.cos->dim() == 3 && x.cos->sizes() == x.sin->sizes() && (x.cos->size(0) == 1 || x.cos->size(0) == batch_) &&
          x.cos->size(1) == length && rotary_size <= size && rotary_size % 2 == 0,
      "cos and sin must be (B or 1, ", length, ", r), r even and at most ", size);
  const RotationTables tables = rotation_tables(*x.cos, *x.sin, size, x.interleaved);
  tensors_.insert(tensors_.end(), {tables.direct, tables.cross, tables.partner});
  kernel_arguments_.partner = tables.partner.const_data_ptr<int64_t>();
  kernel_arguments_.rotation = {
      tables.direct.const_data_ptr<float>(), tables.cross.const_data_ptr<float>(),
      tables.direct.size(0) > 1 ? length * size : 0};
}

void QkProblem::find_tokens(const at::Tensor& valid) {
  const at::Tensor contiguous = valid.contiguous();
  const int64_t length = valid.size(1);
  for (int64_t b = 0; b < batch_; b++) {
    for (int64_t t = 0; t < length; t++)
      if (contiguous.const_data_ptr<bool>()[b * length + t]) tokens_.push_back(t);
    offsets_.push_back(tokens_.size());
  }
  kernel_arguments_.tokens = tokens_.data();
  kernel_arguments_.offsets = offsets_.data();
}

void QkProblem::make_tasks() {
  int64_t panels_size = 0;
  for (int64_t b = 0; b < batch_; b++) {
    const int64_t l = kernel_arguments_.length(b);
    longest_ = std::max(longest_, l);
    panel_offsets_.push_back(panels_size);
    panels_size += kernel_arguments_.kv_heads * kernel_arguments_.panels_size(l);
    // The tiles of a head follow each other, so that its panels stay in L2. The longest tiles come first, so that all
    // threads end at about the same time.
    for (int64_t h = 0; h < heads_; h++)
      for (int64_t tile = (l + ROWS - 1) / ROWS - 1; tile >= 0; tile--) tasks_.insert(tasks_.end(), {b, h, tile});
  }
  tensors_.push_back(at::empty(panels_size, at::kFloat));
  kernel_arguments_.panels = tensors_.back().mutable_data_ptr<float>();
  kernel_arguments_.panel_offsets = panel_offsets_.data();
  kernel_arguments_.tasks = tasks_.data();
}

const QkImportance& QkProblem::with_panels() {
  in_parallel(batch_ * kernel_arguments_.kv_heads, [&](std::atomic<int64_t>& next, int64_t count) {
    for (int64_t task; (task = next++) < count;)
      if (kernel_arguments_.length(task / kernel_arguments_.kv_heads) > 0)
        kernels().qk_panels(kernel_arguments_, task / kernel_arguments_.kv_heads, task % kernel_arguments_.kv_heads);
  });
  return kernel_arguments_;
}

at::Tensor QkProblem::tokens(int64_t document) const {
  const int64_t length = kernel_arguments_.length(document);
  const at::Tensor positions = at::empty({length}, at::kLong);
  std::copy_n(tokens_.data() + offsets_[document], length, positions.mutable_data_ptr<int64_t>());
  return positions;
}

QkProblem::Sums QkProblem::run(void (*tile)(const QkImportance&, int64_t, float*), int64_t outputs) {
  const int64_t task_count = tasks_.size() / 3, width = kernel_arguments_.width(), size = kernel_arguments_.size;
  const at::Tensor slots = at::empty(task_count * 2 * outputs * width, at::kFloat);
  kernel_arguments_.sums = slots.mutable_data_ptr<float>();

  with_panels();
  in_parallel(task_count, [&](std::atomic<int64_t>& next, int64_t count) {
    const at::Tensor scratch = at::empty(scratch_size(), at::kFloat);
    for (int64_t task; (task = next++) < count;) tile(kernel_arguments_, task, scratch.mutable_data_ptr<float>());
  });

  const at::Tensor query_sums = at::zeros({outputs, batch_, heads_, size}, at::kDouble);
  const at::Tensor key_sums = at::zeros({outputs, batch_, kernel_arguments_.kv_heads, size}, at::kDouble);
  for (int64_t task = 0; task < task_count; task++) {
    const int64_t b = tasks_[3 * task], h = tasks_[3 * task + 1];
    const float* query_slot = kernel_arguments_.sums + task * 2 * outputs * width;
    const float* key_slot = kernel_arguments_.sites_coincide() ? query_slot : query_slot + outputs * width;
    for (int64_t i = 0; i < outputs; i++) {
      double* to_queries = query_sums.mutable_data_ptr<double>() + ((i * batch_ + b) * heads_ + h) * size;
      double* to_keys = key_sums.mutable_data_ptr<double>() +
                        ((i * batch_ + b) * kernel_arguments_.kv_heads + h / kernel_arguments_.group) * size;
      for (int64_t n = 0; n < size; n++) {
        to_queries[n] += query_slot[i * width + n];
        to_keys[n] += key_slot[i * width + n];
      }
    }
  }
  return {query_sums.flatten(2), key_sums.flatten(2)};
}

}  // namespace pymultiling
