// value_energy: energy[c, k d + j] = sum_{g, g'} (sum_{t in c} a[t, kG + g, j] a[t, kG + g', j]) gram[k, j, g, g'].
//
// attention (tokens, K G d), gram here as (K, G, G, d) so that lanes run over j. A task takes one key/value head; one
// pair's sum over a run stays in a register, the run's rows in L1.
#include "level.h"
#include "vec.h"

namespace pymultiling::PYMULTILING_LEVEL {

template <typename T>
static void head(const ValueEnergy& a, int64_t k) {
  const T* attention = static_cast<const T*>(a.attention.data) + k * a.group * a.size;
  const float* gram = a.gram + k * a.group * a.group * a.size;
  for (int64_t r = 0; r < a.run_count; r++) {
    const Run run = a.runs[r];
    if (run.document < 0) continue;
    double* energy = a.energy + (run.document * a.kv_heads + k) * a.size;
    for (int64_t j = 0; j < a.size; j += LANES) {
      const int64_t lanes = a.size - j;
      vec total{};
      for (int64_t g = 0; g < a.group; g++) {
        for (int64_t h = 0; h <= g; h++) {
          vec product{};
          for (int64_t t = run.begin; t < run.end; t++) {
            const T* row = attention + t * a.attention.stride + j;
            const T *one = row + g * a.size, *other = row + h * a.size;
            product += load_some(one, lanes) * load_some(other, lanes);
          }
          const float* upper = gram + (g * a.group + h) * a.size + j;
          const float* lower = gram + (h * a.group + g) * a.size + j;
          total += product * (h == g ? load_some(upper, lanes) : load_some(upper, lanes) + load_some(lower, lanes));
        }
      }
      for (int64_t i = 0; i < LANES && i < lanes; i++) energy[j + i] += total[i];
    }
  }
}

void value_energy(const ValueEnergy& a, int64_t kv_head) {
  a.bfloat16 ? head<uint16_t>(a, kv_head) : head<float>(a, kv_head);
}

}  // namespace pymultiling::PYMULTILING_LEVEL
