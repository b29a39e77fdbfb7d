// The kernels of the instruction set that this file is compiled for.
#pragma once

#include "table.h"  // declares the structs that kernels take where all instruction sets find them, in pymultiling

namespace pymultiling::PYMULTILING_LEVEL {

#define PYMULTILING_DECLARATION(result, name, ...) result name(__VA_ARGS__);

PYMULTILING_KERNELS(PYMULTILING_DECLARATION)

#undef PYMULTILING_DECLARATION

}  // namespace pymultiling::PYMULTILING_LEVEL
