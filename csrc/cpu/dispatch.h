// Which instruction set's kernels run.
#pragma once

#include "kernels/table.h"

namespace pymultiling {

// The table of the instruction set in use: the best that the machine has, or the one that was chosen.
const Kernels& kernels();

}  // namespace pymultiling
