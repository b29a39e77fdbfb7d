// The machine instructions that the kernel uses, one function each. When compiled for the CPU, they come from the
// tests' emulation of a block.
#pragma once

#include <cstdint>

#ifdef __CUDACC__

#define PML_DEVICE __device__ __forceinline__
#define PML_HOST_DEVICE __host__ __device__ __forceinline__

namespace pymultiling {

PML_DEVICE int thread_index() { return threadIdx.x; }
PML_DEVICE int block_count() { return gridDim.x; }
PML_DEVICE float from_bits(uint32_t x) { return __uint_as_float(x); }
PML_DEVICE uint32_t to_bits(float x) { return __float_as_uint(x); }

PML_DEVICE float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

PML_DEVICE float log2_of(float x) {
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

PML_DEVICE float divide(float a, float b) { return __fdividef(a, b); }
PML_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// Packs two bfloat16 into a word, the first in the low half.
PML_DEVICE uint32_t pack(float first, float second) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
  return y;
}

// Returns four of the bytes of a (0 to 3) and b (4 to 7), selected by the hexadecimal digits of `selector`.
PML_DEVICE uint32_t select_bytes(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }

// Computes d = a b + c with bfloat16 factors and float32 sums. The fragments have the layout of PTX.
PML_DEVICE void mma_8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a0), "r"(a1), "r"(b), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

PML_DEVICE void mma_16(
    float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1, const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// All lanes of a warp must call the following functions together.
PML_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
// For numbers that are not negative. NaN counts as the largest.
PML_DEVICE float max_over_lanes(float x) { return from_bits(__reduce_max_sync(~0u, to_bits(x))); }
PML_DEVICE uint32_t ballot(bool x) { return __ballot_sync(~0u, x); }
PML_DEVICE int first_lane(uint32_t lanes) { return __ffs(lanes) - 1; }
PML_DEVICE void sync_warp() { __syncwarp(); }
PML_DEVICE void sync_block() { __syncthreads(); }

// Starts to copy 16 bytes from global to shared memory, from and to OFFSET bytes after the pointers. The bytes have
// arrived after wait_for_copies().
template <int OFFSET>
PML_DEVICE void copy_async(void* shared, const void* global) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at + OFFSET),
               "l"(static_cast<const char*>(global) + OFFSET)
               : "memory");
}
PML_DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Increments a counter in global memory and returns its previous value. What a block wrote before is visible to every
// block that increments the counter later.
PML_DEVICE int increment(int* counter) {
  __threadfence();
  const int previous = atomicAdd(counter, 1);
  __threadfence();
  return previous;
}

// Waits until the counter is at least `count`.
PML_DEVICE void wait_until(int* counter, int count) {
  int value;
  do {
    asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  } while (value < count);
  __threadfence();
}

// Loads a value that another block may have written, from the L2: this multiprocessor's L1 could be outdated.
PML_DEVICE float load_from_l2(const float* at) { return __ldcg(at); }

}  // namespace pymultiling

#else
#include "emulated_block.h"
#endif
