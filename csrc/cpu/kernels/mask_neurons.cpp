// mask_neurons: y[t, n] = 0 if mask_ids[t] >= 0 and masks[mask_ids[t], n] else x[t, n].
//
// x, y (tokens, width), the same memory or not; the elements' bits are moved as they are. A task takes whole rows.
#include "level.h"

namespace pymultiling::PYMULTILING_LEVEL {

template <typename T>
static void rows(const MaskNeurons& a, int64_t first, int64_t last) {
  for (int64_t t = first; t < last; t++) {
    const T* x = static_cast<const T*>(a.x.data) + t * a.x.stride;
    T* y = static_cast<T*>(a.result) + t * a.result_stride;
    if (a.mask_ids[t] < 0) {
      if (x != y) __builtin_memcpy(y, x, sizeof(T) * a.width);
      continue;
    }
    const bool* off = a.masks + a.mask_ids[t] * a.width;
    for (int64_t n = 0; n < a.width; n++) y[n] = off[n] ? T(0) : x[n];
  }
}

void mask_neurons(const MaskNeurons& a, int64_t first_row, int64_t last_row) {
  a.element_size == 2 ? rows<uint16_t>(a, first_row, last_row) : rows<uint32_t>(a, first_row, last_row);
}

}  // namespace pymultiling::PYMULTILING_LEVEL
