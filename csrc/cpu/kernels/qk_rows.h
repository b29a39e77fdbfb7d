// A tile of ROWS query rows of one head: their probabilities, and their coefficients of both sites' panels.
#pragma once

#include "qk_change.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

struct Tile {
  // `rows` is the number of rows in this tile, `keys` the number of keys of the document.
  int64_t document, head, kv_head, first_row, rows, keys;
  int64_t stride;
  // (ROWS, stride)
  float *probability, *log2_probability, *score, *gain, *sigmoid_minus, *sigmoid_plus, *excess, *hyperbolic, *slope;
  float *q, *direct, *cross, *growth, *share;  // (ROWS, width); q is multiplied by the scale
  Row row[ROWS];
};

// Places a task's tile in scratch memory and computes its attention scores and probabilities.
void make_tile(const QkImportance&, int64_t task, float* scratch, Tile&);

// Computes the scores that growths and shares of query neurons (of key neurons) multiply, under LayerNorms. Call it
// once the softmax is computed, before the coefficients are set.
void set_query_scores(const QkImportance&, Tile&);
void set_key_scores(const QkImportance&, Tile&);

void set_query_coefficients(const QkImportance&, const Tile&);
void set_key_coefficients(const QkImportance&, const Tile&);  // call it after set_query_coefficients

// Returns the t of one row for LANES neurons, to which nothing is added yet. `at` is the panel from these lanes on, and
// `coefficients` is the offset of the row's coefficients in the tile.
template <int VECTORS, Growth GROWTH, bool CAPPED>
PYMULTILING_INLINE Change<VECTORS, GROWTH, CAPPED> make_change(
    const Row& row, const Tile& tile, const Panel& at, int64_t coefficients, float softcap) {
  return {
      row,
      at.data,
      VECTORS > 0 ? load(tile.direct + coefficients) : vec{},
      VECTORS > 1 ? load(tile.cross + coefficients) : vec{},
      by_row(GROWTH) ? load(tile.growth + coefficients) : vec{},
      GROWTH == Growth::centred_row ? load(tile.share + coefficients) : vec{},
      vec{},
      vec{},
      softcap};
}

// Returns the t of one row for LANES neurons, from which no mean is subtracted yet, and sets `bound` to a bound of its
// magnitude. The other parameters are those of make_change.
template <int VECTORS, Growth GROWTH, bool CAPPED>
PYMULTILING_INLINE Change<VECTORS, GROWTH, CAPPED> change_of(
    const Row& row, const Tile& tile, const Panel& at, int64_t coefficients, float softcap, vec& bound) {
  auto change = make_change<VECTORS, GROWTH, CAPPED>(row, tile, at, coefficients, softcap);
  bound = VECTORS > 0 ? abs(change.direct) * load(at.largest) : vec{};
  if (VECTORS > 1) bound += abs(change.cross) * load(at.largest + BLOCK);
  if (by_row(GROWTH)) bound += abs(change.growth) * row.largest_score;
  if (by_key(GROWTH)) bound += load(at.largest + VECTORS * BLOCK) * row.largest_score;
  if (GROWTH == Growth::centred_row) bound += abs(change.share) * row.largest_gain;
  if (GROWTH == Growth::centred_key) bound += load(at.largest + (VECTORS + 1) * BLOCK) * row.largest_gain;
  // The result of a soft cap depends on constants, so the panel's mean is added back.
  if (CAPPED && VECTORS > 0) {
    change.constant = change.direct * load(at.mean);
    if (VECTORS > 1) change.constant += change.cross * load(at.mean + BLOCK);
    bound += abs(change.constant);
  }
  if (row.has_sink) bound += abs(change.of_sink(at));
  return change;
}

// Calls compute_site<VECTORS, GROWTH, CAPPED>(panel, index) with the problem's options. `index` is 0 for query neurons,
// 1 for key neurons.
template <typename Site>
static void dispatch_site(const QkImportance& a, const Panel& panel, Growth growth, int64_t index, Site compute_site) {
  const auto with_growth = [&]<int VECTORS, bool CAPPED>() {
    switch (growth) {
      case Growth::none: return compute_site.template operator()<VECTORS, Growth::none, CAPPED>(panel, index);
      case Growth::row: return compute_site.template operator()<VECTORS, Growth::row, CAPPED>(panel, index);
      case Growth::key: return compute_site.template operator()<VECTORS, Growth::key, CAPPED>(panel, index);
      default: return;  // LayerNorms have a kernel of their own
    }
  };
  if (a.softcap != 0)
    return a.rotates() ? with_growth.template operator()<2, true>() : with_growth.template operator()<1, true>();
  return a.rotates() ? with_growth.template operator()<2, false>() : with_growth.template operator()<1, false>();
}

// Calls compute_site for the query neurons and, if they differ, for the key neurons, with their coefficients set.
template <typename Site>
static void for_each_site(const QkImportance& a, const Tile& tile, Site compute_site) {
  set_query_coefficients(a, tile);
  dispatch_site(
      a, a.query_panel(tile.document, tile.kv_head), a.q_growth.data ? Growth::row : Growth::none, 0, compute_site);
  if (a.sites_coincide()) return;
  set_key_coefficients(a, tile);
  dispatch_site(
      a, a.key_panel(tile.document, tile.kv_head), a.k_growth.data ? Growth::key : Growth::none, 1, compute_site);
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
