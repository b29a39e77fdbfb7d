// gated_ffn: hidden = act(gate) * up, or act(gate) without up. Per document it also gives the sum of hidden^2, the
// number of tokens with act(gate) > 0, and the sum of |up| (|gate| without up). Masked neurons are 0 in all of these.
//
// gate, up and hidden are (tokens, width), the sums (count, width). A task handles COLUMNS columns and reads them row
// by row. The three sums of a run stay in L1; hidden is written immediately.
#include "gated_ffn.h"

#include "functions.h"
#include "instruction_set.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

template <Activation activation>
PYMULTILING_INLINE vec activate(vec x) {
  if constexpr (activation == Activation::silu) return x / (1.0f + exp(-x));
  if constexpr (activation == Activation::gelu) return x * normal_cdf(x);
  // x (1 + tanh(z)) / 2 = x / (1 + e^(-2z)), z = sqrt(2 / pi) (x + 0.044715 x^3)
  if constexpr (activation == Activation::gelu_tanh)
    return x / (1.0f + exp(-1.59576912f * (x + 0.044715f * (x * x * x))));
  return x < 0.0f ? vec{} : x;
}

// Returns all bits set in the lanes whose neuron is not masked.
PYMULTILING_INLINE ivec unmasked_lanes(const bool* mask, int64_t count) {
  byte_vec x{};
  __builtin_memcpy(&x, mask, count < LANES ? count : LANES);
  return __builtin_convertvector(x, ivec) == 0;
}

template <typename T, Activation activation>
static void process_columns(const GatedFfn& a, int64_t first) {
  const T *gate = static_cast<const T*>(a.gate.data) + first, *up = static_cast<const T*>(a.up.data);
  T* hidden = static_cast<T*>(a.hidden) + first;
  const int64_t width = a.width - first < COLUMNS ? a.width - first : COLUMNS;
  for (int64_t r = 0; r < a.run_count; r++) {
    const Run run = a.runs[r];
    vec squares[COLUMNS / LANES] = {}, magnitude[COLUMNS / LANES] = {};
    ivec active[COLUMNS / LANES] = {};
    for (int64_t t = run.begin; t < run.end; t++) {
      const bool* mask = a.masks && a.mask_ids[t] >= 0 ? a.masks + a.mask_ids[t] * a.width + first : nullptr;
      for (int64_t n = 0; n < width; n += LANES) {
        const vec x = load_some(gate + t * a.gate.stride + n, width - n);
        vec activated = activate<activation>(x), linear = x, product = activated;
        if (up) {
          linear = load_some(up + t * a.up.stride + first + n, width - n);
          product = activated * linear;
        }
        if (mask) {
          const ivec unmasked = unmasked_lanes(mask + n, width - n);
          activated = unmasked ? activated : vec{};
          linear = unmasked ? linear : vec{};
          product = unmasked ? product : vec{};
        }
        store_some(hidden + t * a.width + n, product, width - n);
        squares[n / LANES] += product * product;
        magnitude[n / LANES] += abs(linear);
        active[n / LANES] -= activated > 0.0f;
      }
    }
    if (run.document < 0) continue;
    const int64_t at = run.document * a.width + first;
    for (int64_t n = 0; n < width; n++) {
      a.squares[at + n] += squares[n / LANES][n % LANES];
      a.magnitude[at + n] += magnitude[n / LANES][n % LANES];
      a.active[at + n] += active[n / LANES][n % LANES];
    }
  }
}

template <typename T>
static void process_typed(const GatedFfn& a, int64_t first) {
  switch (a.activation) {
    case Activation::silu: return process_columns<T, Activation::silu>(a, first);
    case Activation::gelu: return process_columns<T, Activation::gelu>(a, first);
    case Activation::gelu_tanh: return process_columns<T, Activation::gelu_tanh>(a, first);
    case Activation::relu: return process_columns<T, Activation::relu>(a, first);
  }
}

void gated_ffn(const GatedFfn& a, int64_t first_column) {
  a.bfloat16 ? process_typed<uint16_t>(a, first_column) : process_typed<float>(a, first_column);
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
