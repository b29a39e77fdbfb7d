// Importance of the inputs of a linear map whose output passes an RMS norm, f = W x, y = g f / r, r^2 = mean(f^2) +
// eps. v is the sum over a neuron's columns n of x[t, n] W[:, n], and r' is r without the neuron:
//
//     energy[c, i] = sum_{t in c} e^2 |g f|^2 + 2 e (g^2 f).v / r' + |g v|^2 / r'^2
//     r'^2 = r^2 + (|v|^2 - 2 f.v) / D,   e = 1/r - 1/r' = (r'^2 - r^2) / (r r' (r + r'))
//
// The last form of e keeps its digits when v is small. f.v and (g^2 f).v come from the products of f and g^2 f with W,
// |v|^2 and |g v|^2 from the grams. The lanes run over the dimensions of a head. The sum over a run stays in registers.
#include "normed_energy.h"

#include "instruction_set.h"
#include "vec.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

// Returns the sum over a run's tokens for neurons that have the columns of query heads [g, g + count).
template <typename T>
static vec sum_run(
    const NormedEnergy& a, const NormedProducts& p, const Run& run, int64_t j, int64_t g, int64_t count) {
  const int64_t lanes = p.last - j, width = p.last - p.first;
  const T* x = static_cast<const T*>(a.x.data) + p.head * a.group * a.size + j;
  const int64_t pairs = p.head * a.group * a.group * a.size + j;
  vec total{};
  for (int64_t t = run.begin; t < run.end; t++) {
    const T* row = x + t * a.x.stride;
    const float* products = p.products + (t - p.begin) * width + (j - p.first);
    vec f_v{}, ggf_v{}, v_v{}, gv_gv{};
    for (int64_t i = g; i < g + count; i++) {
      const vec factor = load_some(row + i * a.size, lanes);
      vec v{}, gv{};
      for (int64_t h = g; h <= i; h++) {
        const vec other = load_some(row + h * a.size, lanes);
        const int64_t pair = pairs + (i * a.group + h) * a.size;
        v += other * load_some(a.pairs + pair, lanes);
        gv += other * load_some(a.scaled_pairs + pair, lanes);
      }
      const float* product = products + i * 2 * p.rows * width;
      f_v += factor * load_some(product, lanes);
      ggf_v += factor * load_some(product + p.rows * width, lanes);
      v_v += factor * v;
      gv_gv += factor * gv;
    }
    const float square = a.square[t], length = __builtin_sqrtf(square);
    const vec change = (v_v - 2.0f * f_v) / a.outputs;
    vec new_square = square + change;
    new_square = new_square < a.eps ? splat(a.eps) : new_square;
    const vec new_length = sqrt(new_square), inverse = 1.0f / new_length;
    const vec e = change * inverse / (length * (length + new_length));
    const vec scaled = gv_gv * inverse * inverse;
    const vec energy = e * e * a.scaled_square[t] + 2.0f * e * ggf_v * inverse + scaled;
    total += energy < 0.0f ? vec{} : energy;
  }
  return total;
}

PYMULTILING_INLINE void add(double* sums, vec x, int64_t lanes) {
  for (int64_t i = 0; i < LANES && i < lanes; i++) sums[i] += x[i];
}

template <typename T>
static void process_chunk(const NormedEnergy& a, const NormedProducts& p) {
  for (int64_t r = 0; r < p.run_count; r++) {
    const Run& run = p.runs[r];
    if (run.document < 0) continue;
    double* energy = a.energy + (run.document * a.heads + p.head) * a.size;
    double* columns = a.columns ? a.columns + (run.document * a.heads + p.head) * a.group * a.size : nullptr;
    for (int64_t j = p.first; j < p.last; j += LANES) {
      add(energy + j, sum_run<T>(a, p, run, j, 0, a.group), p.last - j);
      for (int64_t g = 0; columns && g < a.group; g++)
        add(columns + g * a.size + j, sum_run<T>(a, p, run, j, g, 1), p.last - j);
    }
  }
}

void normed_energy(const NormedEnergy& a, const NormedProducts& p) {
  a.bfloat16 ? process_chunk<uint16_t>(a, p) : process_chunk<float>(a, p);
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
