// qk_importance, second pass: a tile of ROWS query rows of one head against all keys that the rows attend to.
//
//     attention scores of the tile -> row softmax -> sums over the keys, for both sites and all blocks of neurons
//
// The tile's A stays in L1 or L2, KEYS keys of a panel stay in L1, and the sums stay in registers. The memory is
// proportional to ROWS l.
#include "instruction_set.h"
#include "qk_rows.h"
#include "qk_sweep.h"
#include "whole_norm.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

// Finds a row's peaks, and computes the sums over its keys that do not depend on the neuron.
static void find_peaks(const QkImportance& a, Row& row) {
  const float* p = row.probability;
  row.peaks = 0;
  vec squares{}, slopes{}, scores{}, gains{};
  for (int64_t j = row.first / LANES * LANES; j < row.last; j += LANES) {
    squares += load(p + j) * load(p + j);
    const ivec peak = load(p + j) > 1.0f / PEAKS;
    if (any(peak))
      for (int64_t i = 0; i < LANES; i++)
        if (peak[i] && row.peaks < PEAKS) row.peak[row.peaks++] = j + i;
    if (!a.needs_scores()) continue;
    vec rest = peak ? vec{} : load(p + j);
    if (a.softcap != 0) rest *= 4.0f * load(row.sigmoid_minus + j) * load(row.sigmoid_plus + j);
    slopes += rest;
    scores += rest * load(row.score + j);
    if (a.is_centred()) gains += rest * load(row.gain + j);
  }
  row.squares = sum(squares);
  row.rest_slopes = sum(slopes);
  row.rest_scores = sum(scores);
  row.rest_gains = sum(gains);
}

// Returns t minus approximately its mean under A, for one row and LANES neurons, and sets `sink` to t of the sink. The
// other parameters are those of change_of.
template <int VECTORS, Growth GROWTH, bool CAPPED>
static Change<VECTORS, GROWTH, CAPPED> centred(
    const Row& row, const Tile& tile, const Panel& at, int64_t coefficients, float softcap, vec& bound, vec& sink) {
  auto change = change_of<VECTORS, GROWTH, CAPPED>(row, tile, at, coefficients, softcap, bound);
  const vec growth = by_key(GROWTH) ? load(at.mean + VECTORS * BLOCK) : change.growth;
  const vec share = GROWTH == Growth::centred_key ? load(at.mean + (VECTORS + 1) * BLOCK) : change.share;
  // The peaks contribute exactly to the mean. The other keys contribute with the panel's mean and the slope of the soft
  // cap.
  vec mean = change.constant * row.rest_slopes;  // the constant is 0 without a soft cap
  if (GROWTH != Growth::none) mean += growth * row.rest_scores;
  if (is_centred(GROWTH)) mean += share * row.rest_gains;
  for (int64_t i = 0; i < row.peaks; i++) mean += row.probability[row.peak[i]] * change(row.peak[i]);
  if (row.has_sink) mean += row.sink * change.of_sink(at);
  bound += abs(mean);
  if (CAPPED) {
    change.centre = mean;
  } else {
    change.constant = -mean;
  }
  if (row.has_sink) sink = change.of_sink(at);
  return change;
}

// `width` is the number of neurons of the panel, and of the tile's coefficients.
template <int VECTORS, Growth GROWTH, bool CAPPED>
static void compute_site(const Tile& tile, const Panel& panel, int64_t width, float softcap, float* importance) {
  const int64_t begin = tile.row[0].first, end = tile.row[tile.rows - 1].last;
  for (int64_t n = 0; n < width; n += LANES) {
    const Panel at = panel.lanes(tile.keys, n);
    vec bound[ROWS], constant[ROWS], centre[ROWS], sink[ROWS], total{};
    Sums sums[ROWS];
    bool is_narrow[ROWS];
    for (int64_t r = 0; r < tile.rows; r++) {
      const auto change =
          centred<VECTORS, GROWTH, CAPPED>(tile.row[r], tile, at, r * width + n, softcap, bound[r], sink[r]);
      constant[r] = change.constant;
      centre[r] = change.centre;
      is_narrow[r] = !any(~(bound[r] <= LARGEST_NARROW * LOG2_E * softcap));
    }
    const auto change_of_row = [&](int64_t r) {
      auto change = make_change<VECTORS, GROWTH, CAPPED>(tile.row[r], tile, at, r * width + n, softcap);
      change.constant = constant[r];
      change.centre = centre[r];
      return change;
    };
    for (int64_t from = begin; from < end; from += KEYS) {
      for (int64_t r = 0; r < tile.rows; r++) {
        const Row& row = tile.row[r];
        const int64_t first = row.first > from ? row.first : from;
        const int64_t last = row.last < from + KEYS ? row.last : from + KEYS;
        const auto change = change_of_row(r);
        const auto weighted = [](vec p, vec t, int64_t) { return weighted_change(p, t); };
        if constexpr (CAPPED) {
          if (is_narrow[r]) {
            add(sums[r], sweep(NarrowChange<Change<VECTORS, GROWTH, CAPPED>>{change}, first, last, weighted));
            continue;
          }
        }
        add(sums[r], sweep(change, first, last, weighted));
      }
    }
    for (int64_t r = 0; r < tile.rows; r++) {
      const Row& row = tile.row[r];
      if (row.last - row.first == 1 && !row.has_sink) {               // with a single key A' = A = 1 exactly
        total += 0.0f * (change_of_row(r)(row.first) + row.squares);  // keeps NaN
        continue;
      }
      Sums& s = sums[r];
      if (row.has_sink) s.m += weighted_change(splat(row.sink), sink[r]);
      vec change = squared_change(s, row.squares);
      const ivec in_range = (bound[r] < LARGEST_EXPONENT) & (s.b2 < LARGEST_SUM) & (s.m > SMALLEST_MEAN);
      const ivec precise = LARGEST_CANCELLATION * change * (1.0f + s.m) * (1.0f + s.m) >= s.b2;
      if (any(in_range & ~precise)) change = precise ? change : recentred(change_of_row(r), s.m, sink[r]);
      // An infinite t gives NaN.
      if (any(~in_range)) change = in_range ? change : log_space_change(change_of_row(r), sink[r]) + 0.0f * bound[r];
      total += change;
    }
    store(importance + n, total);
  }
}

void qk_tile(const QkImportance& a, int64_t task, float* scratch) {
  Tile tile;
  make_tile(a, task, scratch, tile);
  for (int64_t r = 0; r < tile.rows; r++) find_peaks(a, tile.row[r]);
  for_each_site(a, tile, [&]<int VECTORS, Growth GROWTH, bool CAPPED>(const Panel& panel, int64_t index) {
    compute_site<VECTORS, GROWTH, CAPPED>(tile, panel, a.width(), a.softcap, a.sums + (2 * task + index) * a.width());
  });
}

void centred_tile(const QkImportance& a, int64_t task, float* scratch) {
  Tile tile;
  make_tile(a, task, scratch, tile);
  float* sums = a.sums + 2 * task * a.width();
  const auto compute = [&]<int VECTORS, bool CAPPED>() {
    set_query_scores(a, tile);
    for (int64_t r = 0; r < tile.rows; r++) find_peaks(a, tile.row[r]);
    set_query_coefficients(a, tile);
    compute_site<VECTORS, Growth::centred_row, CAPPED>(
        tile, a.query_panel(tile.document, tile.kv_head), a.width(), a.softcap, sums);
    set_key_scores(a, tile);
    for (int64_t r = 0; r < tile.rows; r++) find_peaks(a, tile.row[r]);
    set_key_coefficients(a, tile);
    compute_site<VECTORS, Growth::centred_key, CAPPED>(
        tile, a.key_panel(tile.document, tile.kv_head), a.width(), a.softcap, sums + a.width());
  };
  if (a.softcap != 0)
    a.rotates() ? compute.template operator()<2, true>() : compute.template operator()<1, true>();
  else
    a.rotates() ? compute.template operator()<2, false>() : compute.template operator()<1, false>();
}

void rescaling_tile(const QkImportance& a, const Rescaling& rescaling, int64_t task, float* scratch) {
  Tile tile;
  make_tile(a, task, scratch, tile);
  for (int64_t r = 0; r < tile.rows; r++) find_peaks(a, tile.row[r]);
  tile.growth = rescaling.query_growth + tile.first_row * rescaling.query_width;
  float* sums = rescaling.sums + (task - rescaling.first_task) * (rescaling.query_width + rescaling.key_width);
  const Panel without_vectors{scratch, scratch, scratch, 0};  // is not read
  const auto compute = [&]<bool CAPPED>() {
    compute_site<0, Growth::row, CAPPED>(tile, without_vectors, rescaling.query_width, a.softcap, sums);
    compute_site<0, Growth::key, CAPPED>(
        tile, rescaling.key_panel, rescaling.key_width, a.softcap, sums + rescaling.query_width);
  };
  a.softcap != 0 ? compute.template operator()<true>() : compute.template operator()<false>();
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
