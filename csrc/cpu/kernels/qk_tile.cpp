// qk_importance, second pass: a tile of ROWS query rows of one head against all the keys that they see.
//
//   scores of the tile -> row softmax -> for both sites, block by block of neurons: the sums over the keys
//
// The tile's A stays in L1 or L2, a piece of KEYS keys of a panel in L1, the sums in registers. Memory is O(ROWS * l).
#include "level.h"
#include "qk_rows.h"
#include "qk_sweep.h"

namespace pymultiling::PYMULTILING_LEVEL {

// What the sweep wants to know of row r beside its probabilities.
static void find_peaks(const QkImportance& a, Row& row) {
  const bool needs_scores = a.softcap != 0 || a.q_gain.data || a.k_gain.data;
  const float* p = row.probability;
  row.peaks = 0;
  vec squares{}, slopes{}, scores{};
  for (int64_t j = row.first / LANES * LANES; j < row.last; j += LANES) {
    squares += load(p + j) * load(p + j);
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
  row.squares = sum(squares);
  row.other_slopes = sum(slopes);
  row.other_scores = sum(scores);
}

// t less its mean under A, near enough, of one row and LANES neurons.
template <bool FAR, Gain GAIN, bool CAPPED>
static Change<FAR, GAIN, CAPPED> centred(
    const Row& row, const Tile& tile, const Panel& at, int64_t coefficients, float softcap, vec& bound) {
  auto change = change_of<FAR, GAIN, CAPPED>(row, tile, at, coefficients, softcap, bound);
  const vec grow = GAIN == Gain::key ? load(at.mean + (1 + FAR) * BLOCK) : change.grow;
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
    const Panel at = panel.lanes(tile.keys, n);
    vec bound[ROWS], constant[ROWS], centre[ROWS], total{};
    Sums sums[ROWS];
    for (int64_t r = 0; r < tile.rows; r++) {
      const auto change = centred<FAR, GAIN, CAPPED>(tile.row[r], tile, at, r * a.width() + n, a.softcap, bound[r]);
      constant[r] = change.constant;
      centre[r] = change.centre;
    }
    const auto of_row = [&](int64_t r) {
      const int64_t c = r * a.width() + n;
      return ChangeOf{tile.row[r],         at.data,     load(tile.near + c), load(tile.far + c),
                      load(tile.grow + c), constant[r], centre[r],           a.softcap};
    };
    for (int64_t from = begin; from < end; from += KEYS) {
      for (int64_t r = 0; r < tile.rows; r++) {
        const Row& row = tile.row[r];
        const int64_t first = row.first > from ? row.first : from;
        const int64_t last = row.last < from + KEYS ? row.last : from + KEYS;
        add(sums[r], sweep(of_row(r), first, last, [](vec p, vec t, int64_t) { return weighted_change(p, t); }));
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
      if (any(in_range & ~precise)) change = precise ? change : recentred(of_row(r), s.m);
      if (any(~in_range)) change = in_range ? change : careful(of_row(r));
      total += change;
    }
    store(importance + n, total);
  }
}

void qk_tile(const QkImportance& a, int64_t task, float* scratch) {
  Tile tile;
  make_tile(a, task, scratch, tile);
  for (int64_t r = 0; r < tile.rows; r++) find_peaks(a, tile.row[r]);
  both_sites(a, tile, [&]<bool FAR, Gain GAIN, bool CAPPED>(const Panel& panel, int64_t index) {
    site<FAR, GAIN, CAPPED>(a, tile, panel, a.sums + (2 * task + index) * a.width());
  });
}

}  // namespace pymultiling::PYMULTILING_LEVEL
