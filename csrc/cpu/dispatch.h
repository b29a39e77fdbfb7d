// Which instruction set's kernels run.
#pragma once

#include <string>

#include "kernels/table.h"

namespace pymultiling {

// The table of the instruction set in use: the best that the machine has, or the one that was chosen.
const Kernels& kernels();

// Uses the kernels of "portable", "avx2" or "avx512"; "" changes nothing. Returns the one in use, which is at first the
// best that the machine has. For tests and comparisons; not to be called while an operator runs.
std::string instruction_set(const std::string& level);

}  // namespace pymultiling
