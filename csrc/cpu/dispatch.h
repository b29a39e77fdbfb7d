// Which instruction set's kernels run.
#pragma once

#include <string>

namespace pymultiling {

// Uses the kernels of "portable", "avx2" or "avx512"; "" changes nothing. Returns the one in use, which is at first the
// best that the machine has. For tests and comparisons; not to be called while an operator runs.
std::string instruction_set(const std::string& level);

}  // namespace pymultiling
