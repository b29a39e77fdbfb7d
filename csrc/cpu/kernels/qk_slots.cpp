#include "qk_slots.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

constexpr double GOLDEN = 0.6180339887498949;
constexpr float HIGHEST_THRESHOLD = 0.07f;  // at most 14 keys exceed it
constexpr int64_t THRESHOLDS = 8;           // each is half of the previous one
constexpr int64_t CERTAIN = SLOTS / 2;      // largest number of certain keys, unless more exceed the highest threshold
constexpr float SMALLEST_MASS = 0x1p-120f;  // smallest mass of the remaining keys for which keys are drawn

// Appends a slot.
static void append(Slots& slots, const Row& row, int64_t key, float weight) {
  slots.key[slots.count] = key;
  slots.probability[slots.count] = row.probability[key];
  slots.weight[slots.count++] = weight;
}

// Ends the shared slots. A slot with weight 0 makes their number even.
static void close_shared(Slots& slots) {
  if (slots.count % 2) {
    slots.key[slots.count] = slots.key[0];
    slots.probability[slots.count] = slots.weight[slots.count] = 0;
    slots.count++;
  }
  slots.shared = slots.count;
}

// Returns how many keys of [begin, end) have a probability above the threshold.
static int64_t count_above(const Row& row, int64_t begin, int64_t end, float threshold) {
  vec count{};
  for (int64_t j = begin; j < end; j += LANES) count += load(row.probability + j) > threshold ? splat(1.0f) : vec{};
  return static_cast<int64_t>(sum(count));
}

// Finds the lowest threshold that at most CERTAIN keys exceed, by bisection.
static float lowest_threshold(const Row& row, int64_t begin, int64_t end) {
  float threshold = HIGHEST_THRESHOLD;
  for (int64_t step = THRESHOLDS / 2; step; step /= 2) {
    const float lower = threshold / (1 << step);
    if (count_above(row, begin, end, lower) <= CERTAIN) threshold = lower;
  }
  return threshold;
}

// Appends the certain keys of [begin, end) to the slots and writes the probabilities of the remaining keys to `rest`.
// Returns the sum of `rest`.
static float append_certain_keys(const Row& row, int64_t begin, int64_t end, float* rest, Slots& slots) {
  const float threshold = lowest_threshold(row, begin, end);
  vec total{};
  for (int64_t j = begin; j < end; j += LANES) {
    vec remaining = load(row.probability + j);
    const ivec certain = remaining > threshold;
    for (uint32_t certain_lanes = lane_bits(certain); certain_lanes; certain_lanes &= certain_lanes - 1) {
      const int64_t key = j + __builtin_ctz(certain_lanes);
      append(slots, row, key, row.probability[key]);
    }
    remaining = certain ? vec{} : remaining;
    store(rest + j, remaining);
    total += remaining;
  }
  return sum(total);
}

// Finds the key of each draw. Draw r selects the first key whose running sum exceeds (r + offset) mass / draws. That is
// the key after the last key with trunc(running sum draws / mass + 1 - offset) = r. If there is no such key, it is the
// key of draw r - 1. The offset is the fractional part of GOLDEN number, where `number` is that of
// the keys up to the row's own.
static void draw_keys(
    const float* rest, int64_t begin, int64_t end, float mass, int64_t draws, int64_t number, int32_t* draw_index,
    int32_t (&key)[SLOTS]) {
  const double golden_multiple = GOLDEN * number;
  const float draws_per_mass = draws / mass;
  double before = 1.0 - (golden_multiple - static_cast<int64_t>(golden_multiple));
  for (int64_t j = begin; j < end; j += LANES) {
    const int32_t whole = static_cast<int32_t>(before);
    const vec sums = running_sums(load(rest + j) * draws_per_mass);
    const ivec index = __builtin_convertvector(sums + static_cast<float>(before - whole), ivec) + whole;
    __builtin_memcpy(draw_index + j, &index, sizeof index);
    before += sums[LANES - 1];
  }
  int32_t last[2 * SLOTS];  // larger than the number of draws: rounding may yield one index too many
  for (int64_t r = 0; r < SLOTS; r++) last[r] = -1;
  last[0] = begin - 1;
  for (int64_t j = begin; j < end; j++) last[draw_index[j]] = j;
  int64_t last_key = end - 1;
  while (rest[last_key] == 0) last_key--;
  for (int64_t r = 0; r < draws; r++) {
    key[r] = last[r] < 0 && r > 0 ? key[r - 1] : last[r] + 1;
    while (key[r] < last_key && rest[key[r]] == 0) key[r]++;  // rounding can put the step before the key
    if (key[r] > last_key) key[r] = last_key;
  }
}

// Draws 2i and 2i + 1 with the same key become a shared slot, together with the previous such pair if it has that key.
static void add_draws(const Row& row, const int32_t (&key)[SLOTS], int64_t draws, Slots& slots) {
  int32_t before = -1;
  for (int64_t r = 0; r < draws; r += 2) {
    if (key[r] != key[r + 1]) continue;
    if (key[r] == before) {
      slots.weight[slots.count - 1] += slots.step;
    } else {
      append(slots, row, key[r], slots.step);
    }
    before = key[r];
  }
  close_shared(slots);
  for (int64_t r = 0; r < draws; r += 2) {
    if (key[r] == key[r + 1]) continue;
    append(slots, row, key[r], slots.step);
    append(slots, row, key[r + 1], slots.step);
  }
}

// Sets slots.squares, in a fixed order of summation.
static void sum_squares(Slots& slots) {
  float sums[4] = {};
  for (int64_t i = 0; i < slots.shared; i += 2)
    for (int64_t half = 0; half < 2; half++) sums[half] += slots.weight[i + half] * slots.probability[i + half];
  for (int64_t i = slots.shared; i < slots.count; i += 2)
    for (int64_t half = 0; half < 2; half++) sums[2 + half] += slots.probability[i + half];
  slots.squares[0] = sums[0] + sums[1];
  slots.squares[1] = slots.step * sums[2];
  slots.squares[2] = slots.step * sums[3];
}

void choose_slots(const Row& row, float* rest, int32_t* draw_index, Slots& slots) {
  const int64_t keys = row.last - row.first;
  slots.count = 0;
  slots.step = 0;
  if (keys <= SLOTS) {
    for (int64_t j = row.first; j < row.last; j++) append(slots, row, j, row.probability[j]);
    slots.certain = slots.count;
    close_shared(slots);
  } else {
    const int64_t begin = row.first / LANES * LANES, end = round_up(row.last, LANES);
    const float mass = append_certain_keys(row, begin, end, rest, slots);
    slots.certain = slots.count;
    const int64_t draws = (SLOTS - slots.count) / 2 * 2;
    if (mass >= SMALLEST_MASS) {
      int32_t key[SLOTS];
      draw_keys(rest, begin, end, mass, draws, row.own + 1 - row.first, draw_index, key);
      slots.step = 2 * mass / draws;
      add_draws(row, key, draws, slots);
    } else {
      if (mass != mass) append(slots, row, row.first, mass);  // lets NaN show in the result
      close_shared(slots);
    }
  }
  sum_squares(slots);
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
