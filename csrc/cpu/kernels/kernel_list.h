// The list of kernels: result, name and parameters of each. The members and the contents of the kernel table are made
// from it, and so are the declarations for each instruction set.
//
// `struct` before a type name in a parameter also declares that struct. So this list needs no header of an operator,
// and a file that includes the list does not depend on the operators' headers.
#pragma once

#include <cstdint>

namespace pymultiling {

template <typename Sum>
struct ColumnSums;  // declared here because `struct` in a parameter cannot declare a template

}  // namespace pymultiling

#define PYMULTILING_KERNELS(X)                                                                               \
  X(void, active_count, const ColumnSums<int64_t>&, int64_t first_column)                                    \
  X(void, column_energy, const ColumnSums<double>&, int64_t first_column)                                    \
  X(void, head_products, const struct HeadProducts&, int64_t kv_head, int64_t first_dimension)               \
  X(void, gated_ffn, const struct GatedFfn&, int64_t first_column)                                           \
  X(void, mask_neurons, const struct MaskNeurons&, int64_t first_row, int64_t last_row)                      \
  X(void, normed_energy, const struct NormedEnergy&, const struct NormedProducts&)                           \
  X(void, nearest_panels, const struct NearestNeighbors&, int64_t block)                                     \
  X(void, nearest_pair, const struct NearestNeighbors&, int64_t first_block, int64_t second_block)           \
  X(double, half_square, const struct NearestNeighbors&, int64_t first, int64_t second)                      \
  X(void, qk_panels, const struct QkImportance&, int64_t document, int64_t kv_head)                          \
  X(void, qk_tile, const struct QkImportance&, int64_t task, float* scratch)                                 \
  X(void, qk_estimate_tile, const struct QkImportance&, int64_t task, float* scratch)                        \
  X(void, centred_tile, const struct QkImportance&, int64_t task, float* scratch)                            \
  X(void, rescaling_tile, const struct QkImportance&, const struct Rescaling&, int64_t task, float* scratch) \
  X(void, whole_norm_tile, const struct QkImportance&, const struct WholeNorm&, int64_t task, float* scratch)
