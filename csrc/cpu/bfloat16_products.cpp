#include "bfloat16_products.h"

#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>

#include <cstring>
#include <string_view>

#include "dispatch.h"

#ifdef PYMULTILING_X86
#include <immintrin.h>
#define PYMULTILING_BFLOAT16 __attribute__((target("avx512f,avx512bf16")))
#endif

namespace pymultiling {
namespace {

constexpr int64_t LANES = 16;

#ifdef PYMULTILING_X86

// Multiplies R rows with V vectors of columns, from column n on. The sums stay in registers.
template <int R, int V>
PYMULTILING_BFLOAT16 void multiply_block(
    const uint16_t* factors, int64_t depth, const uint16_t* packed, int64_t stride, int64_t n, int64_t width,
    float* products) {
  __m512 sums[R][V] = {};
  packed += 2 * n;
  for (int64_t d = 0; d < depth; d += 2, packed += 2 * stride) {
    __m512bh columns[V];
    for (int v = 0; v < V; v++) columns[v] = (__m512bh)_mm512_loadu_si512(packed + 2 * LANES * v);
    for (int r = 0; r < R; r++) {
      int32_t pair;
      std::memcpy(&pair, factors + r * depth + d, sizeof pair);
      for (int v = 0; v < V; v++)
        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], (__m512bh)_mm512_set1_epi32(pair), columns[v]);
    }
  }
  for (int v = 0; v < V; v++) {
    const int64_t left = width - n - LANES * v;
    const __mmask16 lanes = left < LANES ? (1u << left) - 1 : 0xffff;
    for (int r = 0; r < R; r++) _mm512_mask_storeu_ps(products + r * width + n + LANES * v, lanes, sums[r][v]);
  }
}

// Multiplies R rows with all columns.
template <int R>
PYMULTILING_BFLOAT16 void multiply_rows(
    const uint16_t* factors, int64_t depth, const uint16_t* packed, int64_t stride, int64_t width, float* products) {
  int64_t n = 0;
  for (; n + 4 * LANES <= stride; n += 4 * LANES)
    multiply_block<R, 4>(factors, depth, packed, stride, n, width, products);
  for (; n < stride; n += LANES) multiply_block<R, 1>(factors, depth, packed, stride, n, width, products);
}

#endif

}  // namespace

bool has_bfloat16_products() {
#ifdef PYMULTILING_X86
  return std::string_view(kernels().instruction_set) == "avx512" && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

at::Tensor pack_pairs(const at::Tensor& w) {
  const int64_t depth = w.size(0), columns = w.size(1), width = (columns + LANES - 1) / LANES * LANES;
  const at::Tensor packed = at::zeros({depth / 2, width, 2}, at::kBFloat16);
  const auto* from = reinterpret_cast<const uint16_t*>(w.const_data_ptr<at::BFloat16>());
  auto* to = reinterpret_cast<uint32_t*>(packed.mutable_data_ptr<at::BFloat16>());
  const int64_t row_stride = w.stride(0), stride = w.stride(1);
  const auto pack_row = [&](const uint16_t* first, const uint16_t* second, int64_t step) {
    for (int64_t n = 0; n < columns; n++) to[n] = first[n * step] | static_cast<uint32_t>(second[n * step]) << 16;
  };
  for (int64_t d = 0; d < depth; d += 2, from += 2 * row_stride, to += width) {
    if (stride == 1) {
      pack_row(from, from + row_stride, 1);  // the compiler makes vectors of this loop
    } else {
      pack_row(from, from + row_stride, stride);
    }
  }
  return packed;
}

void bfloat16_products(const at::Tensor& products, const at::Tensor& factors, const at::Tensor& packed) {
#ifdef PYMULTILING_X86
  constexpr int64_t ROWS = 6;
  const int64_t rows = factors.size(0), depth = factors.size(1), stride = packed.size(1), width = products.size(1);
  const auto* f = reinterpret_cast<const uint16_t*>(factors.const_data_ptr<at::BFloat16>());
  const auto* p = reinterpret_cast<const uint16_t*>(packed.const_data_ptr<at::BFloat16>());
  auto* to = products.mutable_data_ptr<float>();
  int64_t r = 0;
  for (; r + ROWS <= rows; r += ROWS) multiply_rows<ROWS>(f + r * depth, depth, p, stride, width, to + r * width);
  for (; r < rows; r++) multiply_rows<1>(f + r * depth, depth, p, stride, width, to + r * width);
#endif
}

}  // namespace pymultiling
