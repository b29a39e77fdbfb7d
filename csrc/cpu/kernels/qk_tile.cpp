// qk_importance, second pass: a tile of ROWS query rows of one head against all the keys that they see.
//
//   scores of the tile -> row softmax -> for both sites, block by block of neurons: the sums over the keys
//
// The tile's A stays in L1 or L2, a piece of KEYS keys of a panel in L1, the sums in registers. Memory is O(ROWS * l).
#include "level.h"
#include "qk_sweep.h"

namespace pymultiling::PYMULTILING_LEVEL {

constexpr float LARGEST_EXPONENT = 100.0f;  // of 2, where an A below the normal numbers (2^-126) is still negligible
constexpr float LARGEST_SUM = 1e30f;
constexpr float SMALLEST_MEAN = -0.5f;  // of 2^t - 1: 1 + m keeps its digits
constexpr float LARGEST_CANCELLATION = 100.0f;  // costs float32 two of its seven digits

struct Tile {
  int64_t document, head, kv_head, first_row, rows, keys;  // rows in this tile; keys of the document
  int64_t stride;
  float *probability, *log2_probability, *score, *below, *above, *cut;  // (ROWS, stride)
  float *q, *near, *far, *grow;                                         // (ROWS, width); q times the scale
  Row row[ROWS];
};

// q' times the scale, of the tile's rows; zero in the rows and lanes that do not exist.
static void load_queries(const QkImportance& a, const Tile& tile) {
  const int64_t* tokens = a.tokens + a.offsets[tile.document] + tile.first_row;
  for (int64_t r = 0; r < ROWS; r++) {
    float* to = tile.q + r * a.width();
    __builtin_memset(to, 0, a.width() * sizeof(float));
    if (r >= tile.rows) continue;
    const float* q = a.q.at(tile.document, tile.head, tokens[r]);
    for (int64_t n = 0; n < a.size; n++) to[n] = a.scale * q[n];
  }
}

// What each row puts before a query panel: near, far, gain - 1.
static void query_coefficients(const QkImportance& a, const Tile& tile) {
  const int64_t* tokens = a.tokens + a.offsets[tile.document] + tile.first_row;
  for (int64_t r = 0; r < tile.rows; r++) {
    float *near = tile.near + r * a.width(), *far = tile.far + r * a.width(), *grow = tile.grow + r * a.width();
    const float* q = a.one_site() ? a.q.at(tile.document, tile.head, tokens[r])
                                  : a.q_plain.at(tile.document, tile.head, tokens[r]);
    __builtin_memset(near, 0, a.width() * sizeof(float));
    __builtin_memset(far, 0, a.width() * sizeof(float));
    __builtin_memset(grow, 0, a.width() * sizeof(float));
    for (int64_t n = 0; n < a.size; n++) near[n] = -LOG2_E * a.scale * q[n];
    if (a.q_gain.data) {
      const float* gain = a.q_gain.at(tile.document, tile.head, tokens[r]);
      for (int64_t n = 0; n < a.size; n++) {
        near[n] *= gain[n];
        grow[n] = LOG2_E * (gain[n] - 1.0f);
      }
    }
    if (a.rotates()) {
      const int64_t turn = tile.document * a.rotation.batch_stride + tokens[r] * a.size;
      for (int64_t n = 0; n < a.size; n++) {
        far[n] = near[n] * a.rotation.far[turn + n];
        near[n] *= a.rotation.near[turn + n];
      }
    }
  }
}

// And before a key panel: q'[n], q'[p] (after query_coefficients, which left zeros past the head's size).
static void key_coefficients(const QkImportance& a, const Tile& tile) {
  for (int64_t r = 0; r < tile.rows; r++) {
    const float* q = tile.q + r * a.width();
    __builtin_memcpy(tile.near + r * a.width(), q, a.width() * sizeof(float));
    for (int64_t n = 0; n < a.size; n++) tile.far[r * a.width() + n] = q[a.partner[n]];
  }
}

// The keys that each row sees: not after it, and within the window.
static void find_keys(const QkImportance& a, Tile& tile) {
  const int64_t* tokens = a.tokens + a.offsets[tile.document];
  for (int64_t r = 0; r < tile.rows; r++) {
    Row& row = tile.row[r];
    row.last = tile.first_row + r + 1;
    row.first = r ? tile.row[r - 1].first : 0;
    while (tokens[row.last - 1] - tokens[row.first] >= a.window) row.first++;
    row.probability = tile.probability + r * tile.stride;
    row.log2_probability = tile.log2_probability + r * tile.stride;
    row.score = tile.score + r * tile.stride;
    row.below = tile.below + r * tile.stride;
    row.above = tile.above + r * tile.stride;
    row.cut = tile.cut + r * tile.stride;
  }
}

// S of all rows for the keys that any of them sees, into the array that becomes log2 A: 4 rows and 2 vectors of keys at
// a time in registers.
static void scores(const QkImportance& a, const Tile& tile) {
  constexpr int64_t R = 4, V = 2;
  const int64_t begin = tile.row[0].first, end = tile.row[tile.rows - 1].last;
  const float* keys = a.keys(tile.document, tile.kv_head);
  for (int64_t j = begin / SPAN * SPAN; j < end; j += V * LANES) {
    const float* span = keys + j / SPAN * a.width() * SPAN + j % SPAN;
    for (int64_t r = 0; r < tile.rows; r += R) {
      vec s[R][V] = {};
      for (int64_t n = 0; n < a.size; n++) {
        const vec k[V] = {load(span + n * SPAN), load(span + n * SPAN + LANES)};
        for (int64_t i = 0; i < R; i++)
          for (int64_t v = 0; v < V; v++) s[i][v] += k[v] * tile.q[(r + i) * a.width() + n];
      }
      for (int64_t i = 0; i < R; i++)
        for (int64_t v = 0; v < V; v++) store(tile.log2_probability + (r + i) * tile.stride + j + v * LANES, s[i][v]);
    }
  }
}

// Adds back what the panel's mean took out of the scores of row r, and caps them.
static void raw_scores(const QkImportance& a, Tile& tile, int64_t r, int64_t begin, int64_t end) {
  const Panel panel = a.query_panel(tile.document, tile.kv_head);
  float constant = 0;
  for (int64_t n = 0; n < a.size; n++)
    constant += tile.q[r * a.width() + n] * panel.mean[n / BLOCK * panel.vectors * BLOCK + n % BLOCK];
  vec most{};
  for (int64_t j = begin; j < end; j += LANES) {
    const int64_t at = r * tile.stride + j;
    const vec raw = load(tile.log2_probability + at) + constant;
    store(tile.score + at, raw);
    most = max(abs(raw), most);
    if (a.softcap == 0) continue;
    vec x = raw / a.softcap;
    x = x < -20.0f ? splat(-20.0f) : x;
    x = x > 20.0f ? splat(20.0f) : x;
    const vec below = 1.0f / (1.0f + exp(2.0f * x)), above = 1.0f / (1.0f + exp(-2.0f * x));
    store(tile.below + at, below);
    store(tile.above + at, above);
    store(tile.cut + at, 2 * LOG2_E * (raw / a.softcap - x));
    store(tile.log2_probability + at, a.softcap * (above - below));
  }
  tile.row[r].largest_score = largest(most);
}

// Scores of row r to A and log2 A, and what the sweep wants to know of the row.
static void softmax(const QkImportance& a, Tile& tile, int64_t r) {
  Row& row = tile.row[r];
  float *p = tile.probability + r * tile.stride, *s = tile.log2_probability + r * tile.stride;

  const int64_t begin = row.first / LANES * LANES, end = round_up(row.last, LANES);
  const bool needs_scores = a.softcap != 0 || a.q_gain.data || a.k_gain.data;
  if (needs_scores) raw_scores(a, tile, r, begin, end);
  for (int64_t j = begin; j < row.first; j++) s[j] = -__builtin_inff();
  for (int64_t j = row.last; j < end; j++) s[j] = -__builtin_inff();

  vec most = splat(-__builtin_inff()), total{}, squares{};
  for (int64_t j = begin; j < end; j += LANES) most = max(load(s + j), most);
  const float shift = largest(most);
  for (int64_t j = begin; j < end; j += LANES) {
    const vec t = (load(s + j) - shift) * LOG2_E, power = exp2(t);
    store(s + j, t);
    store(p + j, power);
    total += power;
  }
  const float normal = sum(total), log2_normal = __builtin_log2f(normal);
  for (int64_t j = begin; j < end; j += LANES) {
    const vec probability = load(p + j) / normal;
    store(p + j, probability);
    store(s + j, load(s + j) - log2_normal);
    squares += probability * probability;
  }
  row.squares = sum(squares);

  row.peaks = 0;
  vec slopes{}, scores{};
  for (int64_t j = begin; j < end; j += LANES) {
    const ivec peak = load(p + j) > 1.0f / PEAKS;
    if (any(peak))
      for (int64_t i = 0; i < LANES; i++)
        if (peak[i] && row.peaks < PEAKS) row.peak[row.peaks++] = j + i;
    if (!needs_scores) continue;
    vec others = peak ? vec{} : load(p + j);
    if (a.softcap != 0) others *= 4.0f * load(row.below + j) * load(row.above + j);
    slopes += others;
    scores += others * load(row.score + j);
  }
  row.other_slopes = sum(slopes);
  row.other_scores = sum(scores);
}

// t less its mean under A, near enough, of one row and LANES neurons (panel, mean and largest at these lanes).
template <typename ChangeOf, bool FAR, Gain GAIN, bool CAPPED>
static ChangeOf centred(const Row& row, const Tile& tile, const Panel& at, int64_t coefficients, float softcap,
                        vec& bound) {
  ChangeOf change{row, at.data, load(tile.near + coefficients), load(tile.far + coefficients),
                  load(tile.grow + coefficients), vec{}, vec{}, softcap};
  bound = abs(change.near) * load(at.largest);
  if (FAR) bound += abs(change.far) * load(at.largest + BLOCK);
  vec grow = change.grow;
  if (GAIN == Gain::row) bound += abs(grow) * row.largest_score;
  if (GAIN == Gain::key) {
    grow = load(at.mean + (1 + FAR) * BLOCK);
    bound += load(at.largest + (1 + FAR) * BLOCK) * row.largest_score;
  }
  if (CAPPED) {  // a cap does not ignore constants: what the panel's mean took out comes back
    change.constant = change.near * load(at.mean);
    if (FAR) change.constant += change.far * load(at.mean + BLOCK);
    bound += abs(change.constant);
  }
  // The peaks' share of the mean is exact; the other keys count with the panel's mean and the cap's slope.
  vec mean = change.constant * row.other_slopes;  // a constant only where there is a cap
  if (GAIN != Gain::none) mean += grow * row.other_scores;
  for (int64_t i = 0; i < row.peaks; i++) mean += row.probability[row.peak[i]] * change(row.peak[i]);
  bound += abs(mean);
  if (CAPPED) {
    change.centre = mean;
  } else {
    change.constant = -mean;
  }
  return change;
}

template <bool FAR, Gain GAIN, bool CAPPED>
static void site(const QkImportance& a, const Tile& tile, const Panel& panel, float* importance) {
  using ChangeOf = Change<FAR, GAIN, CAPPED>;
  const int64_t begin = tile.row[0].first, end = tile.row[tile.rows - 1].last;
  for (int64_t n = 0; n < a.width(); n += LANES) {
    const int64_t block = n / BLOCK, lane = n % BLOCK, summary = block * ChangeOf::STEP + lane;
    const Panel at{panel.data + block * tile.keys * ChangeOf::STEP + lane, panel.mean + summary,
                   panel.largest + summary, panel.vectors};
    vec bound[ROWS], constant[ROWS], centre[ROWS], total{};
    Sums sums[ROWS];
    for (int64_t r = 0; r < tile.rows; r++) {
      const auto change =
          centred<ChangeOf, FAR, GAIN, CAPPED>(tile.row[r], tile, at, r * a.width() + n, a.softcap, bound[r]);
      constant[r] = change.constant;
      centre[r] = change.centre;
    }
    const auto change_of = [&](int64_t r) {
      const int64_t c = r * a.width() + n;
      return ChangeOf{tile.row[r], at.data, load(tile.near + c), load(tile.far + c), load(tile.grow + c),
                      constant[r], centre[r], a.softcap};
    };
    for (int64_t from = begin; from < end; from += KEYS) {
      for (int64_t r = 0; r < tile.rows; r++) {
        const Row& row = tile.row[r];
        const int64_t first = row.first > from ? row.first : from;
        const int64_t last = row.last < from + KEYS ? row.last : from + KEYS;
        add(sums[r], sweep(change_of(r), first, last, [](vec p, vec t, int64_t) { return weighted_change(p, t); }));
      }
    }
    for (int64_t r = 0; r < tile.rows; r++) {
      const Row& row = tile.row[r];
      if (row.last - row.first == 1) {  // A' = A = 1, to the last bit
        total += 0.0f * sums[r].m;      // NaN stays
        continue;
      }
      const Sums& s = sums[r];
      vec change = squared_change(s, row.squares);
      const ivec in_range = (bound[r] < LARGEST_EXPONENT) & (s.b2 < LARGEST_SUM) & (s.m > SMALLEST_MEAN);
      const ivec precise = LARGEST_CANCELLATION * change * (1.0f + s.m) * (1.0f + s.m) >= s.b2;
      if (any(in_range & ~precise)) change = precise ? change : recentred(change_of(r), s.m);
      if (any(~in_range)) change = in_range ? change : careful(change_of(r));
      total += change;
    }
    store(importance + n, total);
  }
}

template <bool FAR, bool CAPPED>
static void site_with_gain(const QkImportance& a, const Tile& tile, const Panel& panel, Gain gain, float* importance) {
  switch (gain) {
    case Gain::none: return site<FAR, Gain::none, CAPPED>(a, tile, panel, importance);
    case Gain::row: return site<FAR, Gain::row, CAPPED>(a, tile, panel, importance);
    case Gain::key: return site<FAR, Gain::key, CAPPED>(a, tile, panel, importance);
  }
}

static void any_site(const QkImportance& a, const Tile& tile, const Panel& panel, Gain gain, float* importance) {
  if (a.softcap != 0)
    return a.rotates() ? site_with_gain<true, true>(a, tile, panel, gain, importance)
                       : site_with_gain<false, true>(a, tile, panel, gain, importance);
  return a.rotates() ? site_with_gain<true, false>(a, tile, panel, gain, importance)
                     : site_with_gain<false, false>(a, tile, panel, gain, importance);
}

void qk_tile(const QkImportance& a, int64_t task, float* scratch) {
  Tile tile;
  tile.document = a.tasks[3 * task];
  tile.head = a.tasks[3 * task + 1];
  tile.kv_head = tile.head / a.group;
  tile.first_row = a.tasks[3 * task + 2] * ROWS;
  tile.keys = a.length(tile.document);
  tile.rows = tile.keys - tile.first_row < ROWS ? tile.keys - tile.first_row : ROWS;
  tile.stride = a.keys_stride(tile.keys);
  float** by_key[] = {&tile.probability, &tile.log2_probability, &tile.score, &tile.below, &tile.above, &tile.cut};
  for (float** array : by_key) {
    *array = scratch;
    scratch += ROWS * tile.stride;
  }
  float** by_neuron[] = {&tile.q, &tile.near, &tile.far, &tile.grow};
  for (float** array : by_neuron) {
    *array = scratch;
    scratch += ROWS * a.width();
  }

  load_queries(a, tile);
  find_keys(a, tile);
  scores(a, tile);
  for (int64_t r = 0; r < tile.rows; r++) softmax(a, tile, r);

  float* importance = a.sums + task * 2 * a.width();
  query_coefficients(a, tile);
  any_site(a, tile, a.query_panel(tile.document, tile.kv_head), a.q_gain.data ? Gain::row : Gain::none, importance);
  if (a.one_site()) return;
  key_coefficients(a, tile);
  any_site(a, tile, a.key_panel(tile.document, tile.kv_head), a.k_gain.data ? Gain::key : Gain::none,
           importance + a.width());
}

}  // namespace pymultiling::PYMULTILING_LEVEL
