// The kernels of the instruction set that this file is compiled for.
#pragma once

#include "kernels.h"
#include "qk_importance.h"

namespace pymultiling::PYMULTILING_LEVEL {

void active_count(const ActiveCount&, int64_t first_column);
void column_energy(const ColumnEnergy&, int64_t first_column);
void head_products(const HeadProducts&, int64_t kv_head, int64_t first_dimension);
void gated_ffn(const GatedFfn&, int64_t first_column);
void mask_neurons(const MaskNeurons&, int64_t first_row, int64_t last_row);
void nearest_panels(const NearestNeighbors&, int64_t block);
void nearest_pair(const NearestNeighbors&, int64_t one, int64_t other);
double half_square(const NearestNeighbors&, int64_t one, int64_t other);
void qk_panels(const QkImportance&, int64_t document, int64_t kv_head);
void qk_tile(const QkImportance&, int64_t task, float* scratch);
void qk_estimate_tile(const QkImportance&, int64_t task, float* scratch);

}  // namespace pymultiling::PYMULTILING_LEVEL
