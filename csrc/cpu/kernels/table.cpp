// The table of kernels of one instruction set.
#include "table.h"

#include "level.h"

namespace pymultiling::PYMULTILING_LEVEL {

#define PYMULTILING_NAME(x) #x
#define PYMULTILING_QUOTED(x) PYMULTILING_NAME(x)
#define PYMULTILING_ENTRY(result, name, ...) .name = name,

extern const Kernels table;
const Kernels table = {.level = PYMULTILING_QUOTED(PYMULTILING_LEVEL), PYMULTILING_KERNELS(PYMULTILING_ENTRY)};

}  // namespace pymultiling::PYMULTILING_LEVEL
