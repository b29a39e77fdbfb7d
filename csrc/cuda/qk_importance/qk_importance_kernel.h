// The kernel's launch, as the host sees it.
#pragma once

#include <cuda_runtime_api.h>

#include "problem.h"

namespace pymultiling {

// As many as are worth while: two a multiprocessor are resident.
int qk_importance_blocks(const Problem& problem, int multiprocessors);

// What `scratch`, `partial` and `counters` must hold.
int64_t qk_importance_scratch(const Problem& problem, int blocks);
int64_t qk_importance_partial(const Problem& problem);
int64_t qk_importance_counters(const Problem& problem);

cudaError_t launch_qk_importance(const Problem& problem, int blocks, cudaStream_t stream);

}  // namespace pymultiling
