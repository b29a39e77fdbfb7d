// The size of a cache line, by which kernels divide their work.
#pragma once

#include <cstdint>

namespace pymultiling {

constexpr int64_t LINE = 16;  // float32 numbers in a cache line

}  // namespace pymultiling
