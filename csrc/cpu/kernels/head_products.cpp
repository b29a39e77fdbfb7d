// Products of heads that share a key/value head, for value_energy and value_gram:
//
//     products[c, k, g, h, j] = sum_{t in c} x[t, kG + g, j] x[t, kG + h, j],   h <= g
//
// x is (tokens, K G d). The lanes run over j. A task handles LINE dimensions of one key/value head. The two sums of
// one pair over a run stay in registers; the run's rows stay in L1.
#include "head_products.h"

#include "instruction_set.h"
#include "vec.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

template <typename T>
static void process_line(const HeadProducts& a, int64_t k, int64_t first) {
  const int64_t last = first + LINE < a.size ? first + LINE : a.size;
  const T* head = static_cast<const T*>(a.x.data) + k * a.group * a.size;
  for (int64_t r = 0; r < a.run_count; r++) {
    const Run run = a.runs[r];
    if (run.document < 0) continue;
    double* products = a.products + (run.document * a.kv_heads + k) * a.group * a.group * a.size;
    for (int64_t j = first; j < last; j += LANES) {
      const int64_t lanes = last - j;
      for (int64_t g = 0; g < a.group; g++) {
        for (int64_t h = 0; h <= g; h++) {
          const auto product_of = [&](int64_t t) {
            const T* row = head + t * a.x.stride + j;
            return load_some(row + g * a.size, lanes) * load_some(row + h * a.size, lanes);
          };
          vec even{}, odd{};  // equal numbers round in the same direction, so shorter sums lose less
          int64_t t = run.begin;
          for (; t + 1 < run.end; t += 2) {
            even += product_of(t);
            odd += product_of(t + 1);
          }
          if (t < run.end) even += product_of(t);
          double* sum = products + (g * a.group + h) * a.size + j;
          for (int64_t i = 0; i < LANES && i < lanes; i++) sum[i] += double(even[i]) + odd[i];
        }
      }
    }
  }
}

void head_products(const HeadProducts& a, int64_t kv_head, int64_t first) {
  a.bfloat16 ? process_line<uint16_t>(a, kv_head, first) : process_line<float>(a, kv_head, first);
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
