// The operator's arguments as the kernel takes them. For the host and the device.
#pragma once

#include <cstdint>

namespace pymultiling {

using Half = uint16_t;  // the bits of a bfloat16

struct Strides {
  int64_t batch, head;
  uint32_t row;
};

struct Problem {
  const Half *q, *k, *q_plain, *k_plain;
  Strides q_at, k_at, q_plain_at, k_plain_at;
  const void *cos, *sin;  // rows of `turned`
  int64_t table_batch;    // 0: one for all
  bool wide_tables;       // float32, else bfloat16
  bool interleaved;
  const uint8_t* valid;
  float *q_out, *k_out;
  float* scratch;  // scratch_floats() (layout.cuh)
  float* partial;  // (batch, heads, tiles, 2, size)
  int* counters;   // counters_of() (layout.cuh) zeros, left zero
  int batch, heads, kv_heads, length, size;
  int turned;  // dimensions, 0 without rotation
  int window;
  float scale;  // times log2(e): exponentials are powers of two
};

}  // namespace pymultiling
