// The kernel and its launch, without torch.
#include <algorithm>

#include "qk_importance.cuh"
#include "qk_importance_kernel.h"

namespace pymultiling {

// Two blocks per multiprocessor allow 128 registers per thread.
__global__ void __launch_bounds__(THREADS, 2) qk_importance_kernel(const __grid_constant__ Problem problem) {
  extern __shared__ __align__(16) unsigned char memory[];
  run_block(problem, *reinterpret_cast<Shared*>(memory), blockIdx.x);
}

int qk_importance_blocks(const Problem& problem, int multiprocessors) {
  const int64_t heads = int64_t(problem.batch) * problem.kv_heads;
  return int(std::min<int64_t>(2 * multiprocessors, heads * items_per_head(problem)));
}

int64_t qk_importance_scratch_size(const Problem& problem, int blocks) { return scratch_floats(problem, blocks); }

int64_t qk_importance_partial_size(const Problem& problem) {
  return int64_t(problem.batch) * problem.heads * row_tiles(problem) * 2 * problem.size;
}

int64_t qk_importance_counters_size(const Problem& problem) { return counter_count(problem); }

namespace {

// Reserves shared memory for two blocks per multiprocessor and leaves the rest to the L1.
cudaError_t reserve_shared_memory() {
  int device, total;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  if (const cudaError_t error = cudaDeviceGetAttribute(&total, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device))
    return error;
  constexpr int RESERVED = 1024;  // by the driver, for every block
  const int carveout_percent = std::min<int>(100, (200 * (sizeof(Shared) + RESERVED) + total - 1) / total);
  if (const cudaError_t error =
          cudaFuncSetAttribute(qk_importance_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, carveout_percent))
    return error;
  return cudaFuncSetAttribute(qk_importance_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared));
}

}  // namespace

cudaError_t launch_qk_importance(const Problem& problem, int blocks, cudaStream_t stream) {
  if (const cudaError_t error = reserve_shared_memory()) return error;
  qk_importance_kernel<<<blocks, THREADS, sizeof(Shared), stream>>>(problem);
  return cudaGetLastError();
}

}  // namespace pymultiling
