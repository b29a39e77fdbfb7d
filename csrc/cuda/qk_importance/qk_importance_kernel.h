// The kernel's launch, for the host.
#pragma once

#include <cuda_runtime_api.h>

#include "problem.h"

namespace pymultiling {

// Returns the number of blocks to launch: two per multiprocessor, which fit there at once, or fewer if there is less
// work.
int qk_importance_blocks(const Problem& problem, int multiprocessors);

// Return the numbers of elements of the problem's arrays `scratch`, `partial` and `counters`.
int64_t qk_importance_scratch_size(const Problem& problem, int blocks);
int64_t qk_importance_partial_size(const Problem& problem);
int64_t qk_importance_counters_size(const Problem& problem);

cudaError_t launch_qk_importance(const Problem& problem, int blocks, cudaStream_t stream);

}  // namespace pymultiling
