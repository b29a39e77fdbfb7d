// column_energy: energy[c, n] = sum over the tokens t of document c of x[t, n]^2.
//
// x (tokens, width). A task takes COLUMNS columns and reads them row by row; a run's sums stay in L1.
#include "level.h"
#include "vec.h"

namespace pymultiling::PYMULTILING_LEVEL {

template <typename T>
static void columns(const ColumnEnergy& a, int64_t first) {
  const T* x = static_cast<const T*>(a.x.data) + first;
  const int64_t width = a.width - first < COLUMNS ? a.width - first : COLUMNS;
  for (int64_t r = 0; r < a.run_count; r++) {
    const Run run = a.runs[r];
    if (run.document < 0) continue;
    vec sums[COLUMNS / LANES] = {};
    for (int64_t t = run.begin; t < run.end; t++) {
      for (int64_t n = 0; n < width; n += LANES) {
        const vec v = load_some(x + t * a.x.stride + n, width - n);
        sums[n / LANES] += v * v;
      }
    }
    double* energy = a.energy + run.document * a.width + first;
    for (int64_t n = 0; n < width; n++) energy[n] += sums[n / LANES][n % LANES];
  }
}

void column_energy(const ColumnEnergy& a, int64_t first_column) {
  a.bfloat16 ? columns<uint16_t>(a, first_column) : columns<float>(a, first_column);
}

}  // namespace pymultiling::PYMULTILING_LEVEL
