// The table of kernels of one instruction set.
#include "table.h"

#include "instruction_set.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

#define PYMULTILING_NAME(x) #x
#define PYMULTILING_QUOTED(x) PYMULTILING_NAME(x)
#define PYMULTILING_ENTRY(result, name, ...) .name = name,

extern const Kernels table;
const Kernels table = {
    .instruction_set = PYMULTILING_QUOTED(PYMULTILING_INSTRUCTION_SET), PYMULTILING_KERNELS(PYMULTILING_ENTRY)};

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
