// Tasks of unequal length on all threads.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

namespace pymultiling {

// Calls worker(next, count) on every thread, for the tasks [0, count). A worker takes the next free task, next++, until
// none is left. The tasks are not divided in advance, because later rows have more keys and take longer.
template <typename Worker>
void in_parallel(int64_t count, Worker worker) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(count, at::get_num_threads()), 1, [&](int64_t first, int64_t last) {
    for (; first < last; first++) worker(next, count);
  });
}

}  // namespace pymultiling
