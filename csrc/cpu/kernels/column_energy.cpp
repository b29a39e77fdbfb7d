// column_energy: energy[c, n] = sum over the tokens t of document c of x[t, n]^2.
#include "columns.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

PYMULTILING_INLINE vec squared(vec x) { return x * x; }

void column_energy(const ColumnSums<double>& a, int64_t first_column) { sum_columns<squared>(a, first_column); }

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
