// qk_estimate, second pass: a tile of ROWS query rows of one head against the few keys of its slots.
//
//     attention scores of the tile -> row softmax -> slots -> sums over the slots, for both sites and all blocks of
//     neurons
//
// With weights w in place of A in the first factor, the sums are those of qk_change.h: m = sum w u, b1 = sum w A u, ...
// An attention sink has the weight A in m, and is in none of the other sums.
// The sums of the even and of the odd draws share the slots that have the same weight in both. The sums of all draws
// are the mean of the two.
#include "instruction_set.h"
#include "qk_rows.h"
#include "qk_slots.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

constexpr float LARGEST_PRODUCT = 1e18f;  // its square is finite

enum class Part { all, even, odd };

struct Estimate {
  vec all, even, odd;  // sum_j (A' - A)^2 estimated from all draws, the even draws and the odd draws
};

// Adds the terms of slots [first, last) alternately to sums[0] and sums[1]. If all slots have the same weight, the
// caller multiplies by it.
template <bool SAME_WEIGHT>
PYMULTILING_INLINE void add_slots(
    const Slots& slots, int64_t first, int64_t last, const vec* t, vec mean, Sums (&sums)[2]) {
  for (int64_t i = first; i < last; i += 2) {
    for (int64_t half = 0; half < 2; half++) {
      const vec u = exp2_minus_1(t[i + half] - mean);
      vec au = slots.probability[i + half] * u;
      sums[half].m += SAME_WEIGHT ? u : slots.weight[i + half] * u;
      if (!SAME_WEIGHT) au *= slots.weight[i + half];
      sums[half].b1 += au;
      sums[half].b2 += au * u;
    }
  }
}

// Returns the weight of a slot in one part of the draws, 0 if it is not in this part.
static float weight_in(const Slots& slots, Part part, int64_t i) {
  if (i < slots.shared) return slots.weight[i];
  const bool in_part = part == Part::all || (part == Part::odd) == (i % 2 == 1);
  return slots.weight[i] * (part == Part::all ? 0.5f : in_part);
}

// Estimates sum_j (A' - A)^2 from one part of the draws as sum_j w A ((u - m) / (1 + m))^2. This keeps its digits where
// almost all changes cancel, as those of a peak's A near 1. The mean of t is 0. `sink` is t of the sink.
static vec direct_change(const Row& row, const Slots& slots, Part part, const vec* t, vec sink) {
  vec m{}, change{};
  if (row.has_sink) m = row.sink * exp2_minus_1(sink);
  for (int64_t i = 0; i < slots.count; i++) m += weight_in(slots, part, i) * exp2_minus_1(t[i]);
  const vec inverse = 1.0f / (1.0f + m);
  for (int64_t i = 0; i < slots.count; i++) {
    const vec difference = (exp2_minus_1(t[i]) - m) * inverse;
    change += weight_in(slots, part, i) * slots.probability[i] * difference * difference;
  }
  return change;
}

// Estimates sum_j (A' - A)^2 from one part of the draws for any t, using logarithms. With p = softmax(log w + t) the
// estimate is sum_j A_j / w_j (p_j - w_j)^2. This works where a weight is too small or 2^t too large for a float.
// `sink` is t of the sink.
static vec log_space_change(const Row& row, const Slots& slots, Part part, const vec* t, vec sink) {
  float weight[SLOTS], log2_weight[SLOTS];  // -inf: the slot is not in this part
  vec shift = splat(-__builtin_inff()), total{}, change{};
  const auto used = [&](int64_t i) { return log2_weight[i] != -__builtin_inff(); };
  for (int64_t i = 0; i < slots.count; i++) {
    weight[i] = weight_in(slots, part, i);
    log2_weight[i] = i < slots.certain ? row.log2_probability[slots.key[i]] : __builtin_log2f(weight[i]);
    if (used(i)) shift = max(log2_weight[i] + t[i], shift);
  }
  if (row.has_sink) {
    shift = max(row.log2_sink + sink, shift);
    total = exp2(row.log2_sink + sink - shift);
  }
  for (int64_t i = 0; i < slots.count; i++)
    if (used(i)) total += exp2(log2_weight[i] + t[i] - shift);
  vec log2_total;
  for (int i = 0; i < LANES; i++) log2_total[i] = __builtin_log2f(total[i]);
  for (int64_t i = 0; i < slots.count; i++) {
    if (!used(i)) continue;
    const vec shifted = t[i] - (shift + log2_total);
    // In this order no exponent is above 0, even where t is so large that its rounding exceeds 1.
    const vec exponent = log2_weight[i] + t[i] - shift - log2_total;
    const vec small = weight[i] * exp2_minus_1_near_0(shifted), large = exp2(exponent) - weight[i];
    const vec difference = (abs(shifted) < 0.5f) & (abs(exponent - log2_weight[i]) < 1.0f) ? small : large;
    change += (i < slots.certain ? 1.0f : slots.probability[i] / weight[i]) * difference * difference;
  }
  return change;
}

// Estimates one row and LANES neurons. `bound` bounds the magnitude of t, and `sink` is t of the sink.
template <typename ChangeOf>
PYMULTILING_INLINE Estimate estimate(const ChangeOf& change_of, const Slots& slots, vec bound, vec sink) {
  const Row& row = change_of.row;
  vec t[SLOTS], singles{}, mean{};
  for (int64_t i = 0; i < slots.shared; i++) {
    t[i] = change_of(slots.key[i]);
    mean += slots.weight[i] * t[i];
  }
  for (int64_t i = slots.shared; i < slots.count; i++) {
    t[i] = change_of(slots.key[i]);
    singles += t[i];
  }
  mean += 0.5f * slots.step * singles;
  if (row.has_sink) mean += row.sink * sink;

  Sums shared[2], halves[2];
  add_slots<false>(slots, 0, slots.shared, t, mean, shared);
  add_slots<true>(slots, slots.shared, slots.count, t, mean, halves);
  add(shared[0], shared[1]);
  if (row.has_sink) shared[0].m += row.sink * exp2_minus_1(sink - mean);
  for (Sums& s : halves)
    s = {shared[0].m + slots.step * s.m, shared[0].b1 + slots.step * s.b1, shared[0].b2 + slots.step * s.b2};
  const auto& [even, odd] = halves;
  const Sums all = {0.5f * (even.m + odd.m), 0.5f * (even.b1 + odd.b1), 0.5f * (even.b2 + odd.b2)};
  const float even_squares = slots.squares[0] + slots.squares[1], odd_squares = slots.squares[0] + slots.squares[2];
  const vec all_change = unnormalized_change(all, 0.5f * (even_squares + odd_squares));
  // One division serves all three estimates.
  const vec all_m = 1.0f + all.m, even_m = 1.0f + even.m, odd_m = 1.0f + odd.m;
  const vec product = all_m * even_m * odd_m, inverse = 1.0f / (product * product);
  const vec in_all = even_m * odd_m, in_even = all_m * odd_m, in_odd = all_m * even_m;
  Estimate e = {
      all_change * inverse * (in_all * in_all), unnormalized_change(even, even_squares) * inverse * (in_even * in_even),
      unnormalized_change(odd, odd_squares) * inverse * (in_odd * in_odd)};

  vec reach = 2.0f * bound;
  if (any(~(reach < LARGEST_EXPONENT))) {
    reach = splat(-__builtin_inff());
    for (int64_t i = 0; i < slots.count; i++) reach = max(t[i] - mean, reach);
    if (row.has_sink) reach = max(sink - mean, reach);
    e.all += 0.0f * bound;  // NaN for infinite changes, which a soft cap makes finite
    e.even += 0.0f * bound;
  }
  const vec least_m = even_m < odd_m ? even_m : odd_m;
  const ivec in_range = (reach < LARGEST_EXPONENT) & (product < LARGEST_PRODUCT) & (least_m > 1.0f + SMALLEST_MEAN);
  const ivec precise = in_range & (LARGEST_CANCELLATION * all_change >= all.b2);
  if (any(~precise)) {
    for (int64_t i = 0; i < slots.count; i++) t[i] -= mean;  // small changes of a peak keep their digits
    sink -= mean;
    const auto again = [&](Part part, vec estimated) {
      vec change = estimated;
      if (any(in_range & ~precise)) change = precise ? estimated : direct_change(row, slots, part, t, sink);
      if (any(~in_range)) change = in_range ? change : log_space_change(row, slots, part, t, sink) + 0.0f * bound;
      return change;  // NaN for infinite changes
    };
    e = {again(Part::all, e.all), again(Part::even, e.even), again(Part::odd, e.odd)};
  }
  return e;
}

template <int VECTORS, Growth GROWTH, bool CAPPED>
static void compute_site(
    const QkImportance& a, const Tile& tile, const Slots* slots, const Panel& panel, float* importance,
    float* variance) {
  for (int64_t n = 0; n < a.width(); n += LANES) {
    const Panel at = panel.lanes(tile.keys, n);
    vec total{}, squares{};
    for (int64_t r = 0; r < tile.rows; r++) {
      vec bound;
      const auto change =
          change_of<VECTORS, GROWTH, CAPPED>(tile.row[r], tile, at, r * a.width() + n, a.softcap, bound);
      const Estimate e = estimate(change, slots[r], bound, tile.row[r].has_sink ? change.of_sink(at) : vec{});
      const vec half_difference = 0.5f * (e.even - e.odd);
      total += e.all;
      squares += half_difference * half_difference;
    }
    store(importance + n, total);
    store(variance + n, squares);
  }
}

void qk_estimate_tile(const QkImportance& a, int64_t task, float* scratch) {
  Tile tile;
  Slots slots[ROWS];
  make_tile(a, task, scratch, tile);
  float* rest = scratch + a.tile_size(tile.keys);
  int32_t* draw_index = reinterpret_cast<int32_t*>(rest + tile.stride);
  for (int64_t r = 0; r < tile.rows; r++) choose_slots(tile.row[r], rest, draw_index, slots[r]);
  for_each_site(a, tile, [&]<int VECTORS, Growth GROWTH, bool CAPPED>(const Panel& panel, int64_t index) {
    float* importance = a.sums + (2 * task + index) * 2 * a.width();
    compute_site<VECTORS, GROWTH, CAPPED>(a, tile, slots, panel, importance, importance + a.width());
  });
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
