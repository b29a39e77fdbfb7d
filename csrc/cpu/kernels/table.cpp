// The table of kernels of one instruction set.
#include "level.h"

namespace pymultiling::PYMULTILING_LEVEL {

#define PYMULTILING_NAME(x) #x
#define PYMULTILING_QUOTED(x) PYMULTILING_NAME(x)

extern const Kernels table;
const Kernels table = {PYMULTILING_QUOTED(PYMULTILING_LEVEL), active_count, column_energy, head_products, gated_ffn,
                       mask_neurons, nearest_panels, nearest_pair, half_square, qk_panels, qk_tile, qk_estimate_tile};

}  // namespace pymultiling::PYMULTILING_LEVEL
