// mask_neurons: y[t, n] = scale x[t, n] + values[n] if mask_ids[t] >= 0 and masks[mask_ids[t], n] else x[t, n].
//
// x and y are (tokens, width) and may be the same memory. A task handles whole rows. Neurons that are not masked keep
// their bits. If the neurons are replaced, the written values have the bits of `values`.
#include "mask_neurons.h"

#include "instruction_set.h"
#include "vec.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

template <typename T>
static void write_scaled_row(const MaskNeurons& a, const T* x, const bool* mask, T* y) {
  const T* values = static_cast<const T*>(a.values);
  T changed[LANES];
  for (int64_t n = 0; n < a.width; n += LANES) {
    const int64_t count = a.width - n;
    store(changed, load_some(x + n, count) * a.scale + (values ? load_some(values + n, count) : vec{}));
    for (int64_t i = 0; i < LANES && i < count; i++) y[n + i] = mask[n + i] ? changed[i] : x[n + i];
  }
}

template <typename T>
static void write_replaced_row(const MaskNeurons& a, const T* x, const bool* mask, T* y) {
  const T* values = static_cast<const T*>(a.values);
  if (values)
    for (int64_t n = 0; n < a.width; n++) y[n] = mask[n] ? values[n] : x[n];
  else
    for (int64_t n = 0; n < a.width; n++) y[n] = mask[n] ? T(0) : x[n];
}

template <typename T>
static void write_rows(const MaskNeurons& a, int64_t first, int64_t last) {
  for (int64_t t = first; t < last; t++) {
    const T* x = static_cast<const T*>(a.x.data) + t * a.x.stride;
    T* y = static_cast<T*>(a.result) + t * a.result_stride;
    if (a.mask_ids[t] < 0) {
      if (x != y) __builtin_memcpy(y, x, sizeof(T) * a.width);
      continue;
    }
    const bool* mask = a.masks + a.mask_ids[t] * a.width;
    a.replaces ? write_replaced_row(a, x, mask, y) : write_scaled_row(a, x, mask, y);
  }
}

void mask_neurons(const MaskNeurons& a, int64_t first_row, int64_t last_row) {
  a.element_size == 2 ? write_rows<uint16_t>(a, first_row, last_row) : write_rows<float>(a, first_row, last_row);
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
