// qk_importance on CUDA tensors.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <numbers>
#include <tuple>

#include "../../qk_arguments.h"
#include "qk_importance_kernel.h"

namespace pymultiling {
namespace {

// Returns x with rows aligned to 16 bytes.
at::Tensor align_rows(const at::Tensor& x) {
  bool is_aligned =
      x.stride(3) == 1 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 && x.stride(2) < (int64_t(1) << 32);
  for (int i = 0; i < 3; i++) is_aligned &= x.stride(i) % 8 == 0;
  return is_aligned ? x : x.clone(at::MemoryFormat::Contiguous);
}

// Returns a rotation table as contiguous bfloat16 or float32.
at::Tensor make_table(const at::Tensor& x) {
  const at::Tensor converted = x.scalar_type() == at::kBFloat16 ? x : x.to(at::kFloat);
  const bool is_aligned =
      converted.is_contiguous() && reinterpret_cast<uintptr_t>(converted.const_data_ptr()) % 16 == 0;
  return is_aligned ? converted : converted.clone(at::MemoryFormat::Contiguous);
}

const uint16_t* bfloat16_data(const at::Tensor& x) { return static_cast<const uint16_t*>(x.const_data_ptr()); }

Strides strides(const at::Tensor& x) { return {x.stride(0), x.stride(1), static_cast<uint32_t>(x.stride(2))}; }

// Returns zeros. Every launch leaves them zero, so one tensor per stream is sufficient. A CUDA graph gets its own,
// because its replays are not ordered with other launches.
at::Tensor zeroed_counters(int64_t count, const at::TensorOptions& options, c10::cuda::CUDAStream stream) {
  if (c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None)
    return at::zeros({count}, options);
  static std::mutex mutex;
  static auto* const tensors = new std::map<std::pair<int, cudaStream_t>, at::Tensor>;  // never freed
  const std::lock_guard<std::mutex> lock(mutex);
  at::Tensor& tensor = (*tensors)[{stream.device_index(), stream.stream()}];
  if (!tensor.defined() || tensor.numel() < count) tensor = at::zeros({std::max<int64_t>(count, 1024)}, options);
  return tensor;
}

void check_cuda(cudaError_t error) { TORCH_CHECK(error == cudaSuccess, "qk_importance: ", cudaGetErrorString(error)); }

// pymultiling/ops/registry.py says which arguments the kernel does not accept.
std::tuple<at::Tensor, at::Tensor> qk_importance(const QkArguments& x) {
  TORCH_CHECK(
      x.q.scalar_type() == at::kBFloat16 && !x.q_growth && !x.k_growth && !x.softcap && !x.sinks && !x.bias && x.causal,
      "qk_importance: this kernel takes causal attention in bfloat16 without a norm over the head, a soft cap, sinks "
      "and biases");
  const c10::cuda::CUDAGuard guard(x.q.device());
  const at::Tensor queries = align_rows(x.q), keys = align_rows(x.k);
  const at::Tensor plain_queries = x.q_plain ? align_rows(*x.q_plain) : queries,
                   plain_keys = x.k_plain ? align_rows(*x.k_plain) : keys;
  const bool rotates = x.q_plain && x.cos && x.cos->size(2) > 0;
  const at::Tensor cosines = rotates ? make_table(*x.cos) : at::Tensor(),
                   sines = rotates ? make_table(x.sin->to(cosines.scalar_type())) : at::Tensor();
  const at::Tensor valid = x.valid.contiguous();
  const auto floats = x.q.options().dtype(at::kFloat);
  const int64_t batch = x.q.size(0), heads = x.q.size(1), length = x.q.size(2), size = x.q.size(3),
                kv_heads = x.k.size(1);
  at::Tensor q_out = at::empty({batch, heads * size}, floats), k_out = at::empty({batch, kv_heads * size}, floats);
  if (batch * heads * length == 0) return {q_out.zero_(), k_out.zero_()};

  Problem problem = {};
  problem.q = bfloat16_data(queries);
  problem.k = bfloat16_data(keys);
  problem.q_plain = bfloat16_data(plain_queries);
  problem.k_plain = bfloat16_data(plain_keys);
  problem.q_at = strides(queries);
  problem.k_at = strides(keys);
  problem.q_plain_at = strides(plain_queries);
  problem.k_plain_at = strides(plain_keys);
  if (rotates) {
    problem.cos = cosines.const_data_ptr();
    problem.sin = sines.const_data_ptr();
    problem.rotary_size = int(cosines.size(2));
    problem.table_batch = cosines.size(0) > 1 ? cosines.stride(0) : 0;
    problem.wide_tables = cosines.scalar_type() == at::kFloat;
  }
  problem.interleaved = x.interleaved;
  problem.valid = static_cast<const uint8_t*>(valid.const_data_ptr());
  problem.q_out = q_out.mutable_data_ptr<float>();
  problem.k_out = k_out.mutable_data_ptr<float>();
  problem.batch = int(batch);
  problem.heads = int(heads);
  problem.kv_heads = int(kv_heads);
  problem.length = int(length);
  problem.size = int(size);
  problem.window = int(std::min(x.window.value_or(length), length));
  problem.scale = float(x.scale * std::numbers::log2e);

  int multiprocessors;
  check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, x.q.device().index()));
  const int blocks = qk_importance_blocks(problem, multiprocessors);
  const auto stream = c10::cuda::getCurrentCUDAStream(x.q.device().index());
  const at::Tensor scratch = at::empty({qk_importance_scratch_size(problem, blocks)}, floats);
  const at::Tensor partial = at::empty({qk_importance_partial_size(problem)}, floats);
  const at::Tensor counters =
      zeroed_counters(qk_importance_counters_size(problem), x.q.options().dtype(at::kInt), stream);
  problem.scratch = scratch.mutable_data_ptr<float>();
  problem.partial = partial.mutable_data_ptr<float>();
  problem.counters = counters.mutable_data_ptr<int>();
  check_cuda(launch_qk_importance(problem, blocks, stream));
  return {q_out, k_out};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pymultiling_cuda, m) { m.def(qk_schema("qk_importance", "(Tensor, Tensor)").c_str()); }

TORCH_LIBRARY_IMPL(pymultiling_cuda, CUDA, m) { m.impl("qk_importance", &with_packed_arguments<qk_importance>); }

}  // namespace pymultiling
