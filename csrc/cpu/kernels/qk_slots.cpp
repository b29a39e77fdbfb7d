#include "qk_slots.h"

namespace pymultiling::PYMULTILING_LEVEL {

constexpr double GOLDEN = 0.6180339887498949;
constexpr float HIGHEST_THRESHOLD = 0.07f;  // at most 14 keys pass it
constexpr int64_t THRESHOLDS = 8;           // each half of the one before
constexpr int64_t CERTAIN = SLOTS / 2;      // keys, unless more pass the highest
constexpr float SMALLEST_MASS = 0x1p-120f;  // of a rest that is worth a draw

static void append(Slots& slots, const Row& row, int64_t key, float weight) {
  slots.key[slots.count] = key;
  slots.probability[slots.count] = row.probability[key];
  slots.weight[slots.count++] = weight;
}

static void close_shared(Slots& slots) {
  if (slots.count % 2) {
    slots.key[slots.count] = slots.key[0];
    slots.probability[slots.count] = slots.weight[slots.count] = 0;
    slots.count++;
  }
  slots.shared = slots.count;
}

static int64_t passing(const Row& row, int64_t begin, int64_t end, float threshold) {
  vec count{};
  for (int64_t j = begin; j < end; j += LANES) count += load(row.probability + j) > threshold ? splat(1.0f) : vec{};
  return static_cast<int64_t>(sum(count));
}

// The lowest that at most CERTAIN keys pass, by bisection.
static float lowest_threshold(const Row& row, int64_t begin, int64_t end) {
  float threshold = HIGHEST_THRESHOLD;
  for (int64_t step = THRESHOLDS / 2; step; step /= 2) {
    const float lower = threshold / (1 << step);
    if (passing(row, begin, end, lower) <= CERTAIN) threshold = lower;
  }
  return threshold;
}

// Takes the certain keys out of [begin, end) and writes the rest's probabilities; returns their sum.
static float split(const Row& row, int64_t begin, int64_t end, float* rest, Slots& slots) {
  const float threshold = lowest_threshold(row, begin, end);
  vec total{};
  for (int64_t j = begin; j < end; j += LANES) {
    vec left = load(row.probability + j);
    const ivec certain = left > threshold;
    for (uint32_t high = lanes_of(certain); high; high &= high - 1) {
      const int64_t key = j + __builtin_ctz(high);
      append(slots, row, key, row.probability[key]);
    }
    left = certain ? vec{} : left;
    store(rest + j, left);
    total += left;
  }
  return sum(total);
}

// The key of each draw. Draw r hits the first key whose running sum exceeds (r + offset) mass / draws: that after the
// last key with trunc(running sum draws / mass + 1 - offset) = r, and if there is none, the key of draw r - 1.
static void draw(
    const float* rest, int64_t begin, int64_t end, float mass, int64_t draws, int64_t keys, int32_t* upto,
    int32_t (&key)[SLOTS]) {
  const double turns = GOLDEN * keys;
  const float each = draws / mass;
  double before = 1.0 - (turns - static_cast<int64_t>(turns));
  for (int64_t j = begin; j < end; j += LANES) {
    const int32_t whole = static_cast<int32_t>(before);
    const vec sums = running_sums(load(rest + j) * each);
    const ivec found = __builtin_convertvector(sums + static_cast<float>(before - whole), ivec) + whole;
    __builtin_memcpy(upto + j, &found, sizeof found);
    before += sums[LANES - 1];
  }
  int32_t last[2 * SLOTS];  // more than there are draws: rounding may find one too many
  for (int64_t r = 0; r < SLOTS; r++) last[r] = -1;
  last[0] = begin - 1;
  for (int64_t j = begin; j < end; j++) last[upto[j]] = j;
  int64_t most = end - 1;
  while (rest[most] == 0) most--;
  for (int64_t r = 0; r < draws; r++) {
    key[r] = last[r] < 0 && r > 0 ? key[r - 1] : last[r] + 1;
    while (key[r] < most && rest[key[r]] == 0) key[r]++;  // rounding put the step behind the key
    if (key[r] > most) key[r] = most;
  }
}

// Draws 2i and 2i + 1 on the same key make it a shared one, together with those before them on that key.
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

void choose_slots(const Row& row, float* rest, int32_t* upto, Slots& slots) {
  const int64_t keys = row.last - row.first;
  slots.count = 0;
  slots.step = 0;
  if (keys <= SLOTS) {
    for (int64_t j = row.first; j < row.last; j++) append(slots, row, j, row.probability[j]);
    slots.certain = slots.count;
    close_shared(slots);
  } else {
    const int64_t begin = row.first / LANES * LANES, end = round_up(row.last, LANES);
    const float mass = split(row, begin, end, rest, slots);
    slots.certain = slots.count;
    const int64_t draws = (SLOTS - slots.count) / 2 * 2;
    if (mass >= SMALLEST_MASS) {
      int32_t key[SLOTS];
      draw(rest, begin, end, mass, draws, keys, upto, key);
      slots.step = 2 * mass / draws;
      add_draws(row, key, draws, slots);
    } else {
      if (mass != mass) append(slots, row, row.first, mass);  // NaN shows
      close_shared(slots);
    }
  }
  sum_squares(slots);
}

}  // namespace pymultiling::PYMULTILING_LEVEL
