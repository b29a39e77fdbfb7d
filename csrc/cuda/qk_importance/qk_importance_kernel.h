// The kernel's launch, for the host.
#pragma once

#include <cuda_runtime_api.h>

#include "problem.h"

namespace pymultiling {

// Returns the number of blocks to launch: two per multiprocessor are resident.
int qk_importance_blocks(const Problem& problem, int multiprocessors);

// The number of elements of `scratch`, `partial` and `counters`.
int64_t qk_importance_scratch(const Problem& problem, int blocks);
int64_t qk_importance_partial(const Problem& problem);
int64_t qk_importance_counters(const Problem& problem);

cudaError_t launch_qk_importance(const Problem& problem, int blocks, cudaStream_t stream);

}  // namespace pymultiling
