#include "bfloat16_products.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "dispatch.h"

namespace pymultiling {
namespace {

constexpr int64_t LANES = 16;
constexpr int64_t LARGEST_BLOCK = 256;  // rows

#ifdef PYMULTILING_X86

// Multiplies rows of factors with all packed rows. Blocks of rows have a power of two of rows: oneDNN compiles a kernel
// for each size, and keeps it.
void multiply(
    int64_t rows, int64_t columns, int64_t depth, const at::BFloat16* factors, const at::BFloat16* packed,
    int64_t stride, float* products) {
  for (int64_t block = LARGEST_BLOCK, first = 0; block > 0; block /= 2)
    for (; rows - first >= block; first += block)
      at::native::cpublas::brgemm(
          block, columns, depth, depth, stride, columns, false, factors + first * depth, packed,
          products + first * columns, true);
  // Other code may set this thread's tile registers before the next call.
  at::native::cpublas::brgemm_release(true);
}

// Returns whether PyTorch's oneDNN multiplies pairs of bfloat16 on this machine.
bool can_multiply() {
  if (!__builtin_cpu_supports("avx512bf16")) return false;
  const at::BFloat16 zeros[2 * LANES] = {};
  float product[LANES];
  try {
    multiply(1, LANES, 2, zeros, zeros, LANES, product);
  } catch (const c10::Error&) {
    return false;
  }
  return true;
}

#endif

}  // namespace

bool has_bfloat16_products() {
#ifdef PYMULTILING_X86
  if (std::string_view(kernels().instruction_set) != "avx512" || !at::globalContext().userEnabledMkldnn()) return false;
  static const bool can = can_multiply();
  return can;
#else
  return false;
#endif
}

at::Tensor pack_pairs(const at::Tensor& w, const at::Tensor& further) {
  const int64_t depth = w.size(0), columns = w.size(1), width = (columns + LANES - 1) / LANES * LANES;
  const int64_t even = depth + depth % 2, count = further.numel(), pairs = (even + count + 1) / 2;
  const at::Tensor packed = at::empty({pairs, width, 2}, at::kBFloat16);
  const auto* from = reinterpret_cast<const uint16_t*>(w.const_data_ptr<at::BFloat16>());
  auto* to = reinterpret_cast<uint32_t*>(packed.mutable_data_ptr<at::BFloat16>());
  const int64_t row_stride = w.stride(0), stride = w.stride(1), *rows = further.const_data_ptr<int64_t>();
  const std::vector<uint16_t> zeros((columns - 1) * stride + 1);
  const auto row = [&](int64_t d) {
    if (d < depth) return from + d * row_stride;
    return d < even || d - even >= count ? zeros.data() : from + rows[d - even] * row_stride;
  };
  const auto pack_row = [&](const uint16_t* first, const uint16_t* second, int64_t step) {
    for (int64_t n = 0; n < columns; n++) to[n] = first[n * step] | static_cast<uint32_t>(second[n * step]) << 16;
  };
  for (int64_t pair = 0; pair < pairs; pair++, to += width) {
    if (stride == 1) {
      pack_row(row(2 * pair), row(2 * pair + 1), 1);  // the compiler makes vectors of this loop
    } else {
      pack_row(row(2 * pair), row(2 * pair + 1), stride);
    }
    std::fill(to + columns, to + width, 0);
  }
  return packed;
}

void bfloat16_products(const at::Tensor& products, const at::Tensor& factors, const at::Tensor& packed) {
#ifdef PYMULTILING_X86
  multiply(
      factors.size(0), products.size(1), factors.size(1), factors.const_data_ptr<at::BFloat16>(),
      packed.const_data_ptr<at::BFloat16>(), packed.size(1), products.mutable_data_ptr<float>());
#endif
}

}  // namespace pymultiling
