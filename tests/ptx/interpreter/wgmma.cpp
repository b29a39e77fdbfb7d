// wgmma: products of matrices by four warps, of which they take one or both from shared memory, asynchronously.
//
// Operands: the accumulators, then a (four registers or a descriptor), the descriptor of b, and whether to add to the
// accumulators. `size`: bytes of a factor, `immediate`: columns N of the result, `flags`: see below.
#include <cstring>

#include "lanes.h"
#include "memory.h"
#include "products.h"

namespace ptx {
namespace {

// As in encode.py.
constexpr int A_IN_REGISTERS = 1, A_TRANSPOSED = 2, B_TRANSPOSED = 4, IS_HALF = 8;
constexpr int ROWS = 64;

int depth(const Instruction& i) { return 32 / i.size; }

// A matrix in shared memory. It consists of core matrices of 8 rows of 16 bytes, or with a swizzle of 8 rows of 32, 64
// or 128 bytes, in which the 16-byte pieces of a row are permuted by bits of the address.
struct Matrix {
  uint32_t start, leading, stride;
  int row_bytes, swizzle_bits;  // of a row without a swizzle: 16 and 0

  explicit Matrix(uint64_t descriptor) {
    start = uint32_t(descriptor & 0x3fff) << 4;
    leading = uint32_t(descriptor >> 16 & 0x3fff) << 4;
    stride = uint32_t(descriptor >> 32 & 0x3fff) << 4;
    const int mode = int(descriptor >> 62);  // 1: 128 bytes, 2: 64, 3: 32
    swizzle_bits = mode ? 4 - mode : 0;
    row_bytes = 16 << swizzle_bits;
  }

  // The address of an element of a (rows, depth) or of the transposed b. `row` counts along M or N.
  uint32_t at(int row, int k, int size, bool transposed) const {
    uint32_t linear;
    if (transposed) {  // rows of the core matrices run along M or N
      const int per_row = row_bytes / size;
      linear = start + row / per_row * leading + k / 8 * stride + k % 8 * row_bytes + row % per_row * size;
    } else {
      const int bytes = k * size;
      linear = start + row / 8 * stride + bytes / row_bytes * leading + row % 8 * row_bytes + bytes % row_bytes;
    }
    return linear ^ ((linear >> 7 & ((1u << swizzle_bits) - 1)) << 4);
  }
};

template <class F>
void for_elements(const Instruction& i, const Product& product, F function) {
  const Matrix first(product.first), second(product.second);
  for (int k = 0; k < depth(i); k++) {
    for (int row = 0; row < ROWS && !(i.flags & A_IN_REGISTERS); row++)
      function(first.at(row, k, i.size, i.flags & A_TRANSPOSED));
    for (int column = 0; column < i.immediate; column++) function(second.at(column, k, i.size, i.flags & B_TRANSPOSED));
  }
}

float factor(const Instruction& i, uint32_t word, int k) {
  if (i.size == 4) return Tf32Factors::get(word, 0);
  return i.flags & IS_HALF ? HalfFactors::get(word, k) : BrainFactors::get(word, k);
}

float load(const Block& block, const Instruction& i, uint32_t at) {
  uint32_t word = 0;
  if (uint64_t(at) + i.size <= block.shared.size()) std::memcpy(&word, &block.shared[at], i.size);
  return factor(i, word, 0);
}

// Computes a warp's 16 rows of a product. Accumulator x holds row g + 8 (x / 2 % 2), column 2 t + x % 2 + 8 (x / 4).
void multiply(Warp& warp, const Product& product) {
  const Instruction& i = *product.instruction;
  const Block& block = *warp.block;
  const int K = depth(i), N = int(i.immediate), per_register = 4 / i.size, first_row = warp.id % WARPGROUP * 16;
  std::vector<float> a(16 * K), b(N * K);
  const Matrix first(product.first), second(product.second);
  for (int column = 0; column < N; column++)
    for (int k = 0; k < K; k++)
      b[column * K + k] = load(block, i, second.at(column, k, i.size, i.flags & B_TRANSPOSED));
  if (i.flags & A_IN_REGISTERS) {
    for (int l = 0; l < LANES; l++)
      for (int r = 0; r < 4; r++)
        for (int k = 0; k < per_register; k++)
          a[(l / 4 + 8 * (r % 2)) * K + (l % 4 + 4 * (r / 2)) * per_register + k] =
              factor(i, warp.source<uint32_t>(i, r)[l], k);
  } else {
    for (int row = 0; row < 16; row++)
      for (int k = 0; k < K; k++)
        a[row * K + k] = load(block, i, first.at(first_row + row, k, i.size, i.flags & A_TRANSPOSED));
  }
  for (int x = 0; x < i.destinations; x++) {
    float* sums = warp.destination<float>(i, x);
    for (int l = 0; l < LANES; l++) {
      const int row = l / 4 + 8 * (x / 2 % 2), column = l % 4 * 2 + x % 2 + 8 * (x / 4);
      sums[l] = sum_products(&a[row * K], &b[column * K], K, product.scale ? sums[l] : 0.0f);
    }
  }
}

void compute(Warp& warp, Product& product) {
  if (!product.done) multiply(warp, product);
  product.done = true;
}

// The product is issued, and computed now, or when the warp waits for it.
void issue(Warp& warp, const Instruction& i, Mask lanes) {
  require_all(warp, i, lanes);
  Launch& launch = warp.launch();
  if (!warp.fenced) launch.complain(i.line, "no wgmma.fence since registers of a product could be used");
  const int first_sources = i.flags & A_IN_REGISTERS ? 4 : 1;
  Product product{&i,
                  0,
                  warp.source<uint64_t>(i, first_sources)[0],
                  *warp.source<Mask>(i, first_sources + 1) & 1,
                  warp.product_groups,
                  false};
  if (!(i.flags & A_IN_REGISTERS)) product.first = warp.source<uint64_t>(i, 0)[0];
  for_elements(i, product, [&](uint32_t at) { begin_product({warp, 0, i.line}, at, i.size); });
  warp.products.push_back(product);
  if (!launch.options.late) compute(warp, warp.products.back());
}

}  // namespace

void complete_products(Block& block, int first_warp) {
  for (int w = first_warp; w < first_warp + WARPGROUP; w++) {
    Warp& warp = block.warps[w];
    while (!warp.products.empty()) {
      Product& product = warp.products.front();
      if (int64_t(warp.product_groups - product.group) <= warp.waits_at->immediate) break;
      compute(warp, product);
      const Instruction& i = *product.instruction;
      for_elements(i, product, [&](uint32_t at) { end_product({warp, 0, i.line}, at, i.size); });
      warp.products.erase(warp.products.begin());
    }
    warp.fenced = false;
  }
}

void add_wgmma(Table& t) {
  t["wgmma"] = issue;
  t["wgmma.fence"] = [](Warp& warp, const Instruction& i, Mask lanes) {
    require_all(warp, i, lanes);
    warp.fenced = true;
  };
  t["wgmma.commit_group"] = [](Warp& warp, const Instruction& i, Mask lanes) {
    require_all(warp, i, lanes);
    warp.product_groups++;
  };
  t["fence.proxy.async"] = [](Warp& warp, const Instruction&, Mask) {
    warp.proxy_fences++;
    warp.proxy_known = warp.clock.known;
    warp.proxy_known[warp.id] = warp.clock.now;
  };
}

}  // namespace ptx
