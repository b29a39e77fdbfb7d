// The operator's arguments as the kernel takes them, for the host and the device.
#pragma once

#include <cstdint>

namespace pymultiling {

using Bfloat16 = uint16_t;  // the bits of a bfloat16

struct Strides {
  int64_t batch, head;
  uint32_t row;
};

struct Problem {
  const Bfloat16 *q, *k, *q_plain, *k_plain;
  Strides q_at, k_at, q_plain_at, k_plain_at;
  const void *cos, *sin;  // rows of `rotary_size` values
  int64_t table_batch;    // 0 if all documents share one table
  bool wide_tables;       // float32 if true, else bfloat16
  bool interleaved;
  const uint8_t* valid;
  float *q_out, *k_out;
  float* scratch;  // scratch_floats() numbers (layout.cuh)
  float* partial;  // (batch, heads, tiles, 2, size)
  int* counters;   // counter_count() zeros (layout.cuh); the kernel leaves them zero
  int batch, heads, kv_heads, length, size;
  int rotary_size;  // number of rotated dimensions, 0 without rotation
  int window;
  float scale;  // times log2(e), because exponentials are powers of two
};

}  // namespace pymultiling
