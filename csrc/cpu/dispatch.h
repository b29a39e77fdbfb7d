// Selects the instruction set whose kernels run.
#pragma once

#include "kernels/table.h"

namespace pymultiling {

// Returns the kernels of the instruction set in use: the selected one, or the best that the machine supports.
const Kernels& kernels();

}  // namespace pymultiling
