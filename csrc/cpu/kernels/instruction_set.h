// Declares the kernels of the instruction set that the including file is compiled for.
#pragma once

#include "table.h"  // declares the kernels' argument structs in pymultiling, which all instruction sets share

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

#define PYMULTILING_DECLARATION(result, name, ...) result name(__VA_ARGS__);

PYMULTILING_KERNELS(PYMULTILING_DECLARATION)

#undef PYMULTILING_DECLARATION

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
