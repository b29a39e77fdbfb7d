// active_count: active[c, n] = the number of tokens t of document c with x[t, n] > 0.
#include "columns.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

PYMULTILING_INLINE ivec positive(vec x) { return -(x > 0.0f); }  // 1 or 0

void active_count(const ColumnSums<int64_t>& a, int64_t first_column) { sum_columns<positive>(a, first_column); }

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
