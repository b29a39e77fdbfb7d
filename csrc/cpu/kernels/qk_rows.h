// A tile of ROWS query rows of one head: their probabilities, and their coefficients before both sites' panels.
#pragma once

#include "qk_change.h"

namespace pymultiling::PYMULTILING_LEVEL {

struct Tile {
  int64_t document, head, kv_head, first_row, rows, keys;  // rows in this tile; keys of the document
  int64_t stride;
  float *probability, *log2_probability, *score, *below, *above, *cut;  // (ROWS, stride)
  float *q, *near, *far, *grow;                                         // (ROWS, width); q times the scale
  Row row[ROWS];
};

// Lays a task's tile out in scratch memory, and computes its scores and probabilities.
void make_tile(const QkImportance&, int64_t task, float* scratch, Tile&);

void query_coefficients(const QkImportance&, const Tile&);
void key_coefficients(const QkImportance&, const Tile&);  // after those of the queries

// t of one row and LANES neurons, uncentred, and a bound of its magnitude. `at` starts at these lanes.
template <bool FAR, Gain GAIN, bool CAPPED>
PYMULTILING_INLINE Change<FAR, GAIN, CAPPED> change_of(
    const Row& row, const Tile& tile, const Panel& at, int64_t coefficients, float softcap, vec& bound) {
  Change<FAR, GAIN, CAPPED> change{row,
                                   at.data,
                                   load(tile.near + coefficients),
                                   load(tile.far + coefficients),
                                   load(tile.grow + coefficients),
                                   vec{},
                                   vec{},
                                   softcap};
  bound = abs(change.near) * load(at.largest);
  if (FAR) bound += abs(change.far) * load(at.largest + BLOCK);
  if (GAIN == Gain::row) bound += abs(change.grow) * row.largest_score;
  if (GAIN == Gain::key) bound += load(at.largest + (1 + FAR) * BLOCK) * row.largest_score;
  if (CAPPED) {  // a cap does not ignore constants: what the panel's mean took out comes back
    change.constant = change.near * load(at.mean);
    if (FAR) change.constant += change.far * load(at.mean + BLOCK);
    bound += abs(change.constant);
  }
  return change;
}

// Calls site.operator()<FAR, GAIN, CAPPED>(panel, index) as the problem asks: 0 for query neurons, 1 for key neurons.
template <typename Site>
static void any_site(const QkImportance& a, const Panel& panel, Gain gain, int64_t index, Site site) {
  const auto with_gain = [&]<bool FAR, bool CAPPED>() {
    switch (gain) {
      case Gain::none: return site.template operator()<FAR, Gain::none, CAPPED>(panel, index);
      case Gain::row: return site.template operator()<FAR, Gain::row, CAPPED>(panel, index);
      case Gain::key: return site.template operator()<FAR, Gain::key, CAPPED>(panel, index);
    }
  };
  if (a.softcap != 0)
    return a.rotates() ? with_gain.template operator()<true, true>() : with_gain.template operator()<false, true>();
  return a.rotates() ? with_gain.template operator()<true, false>() : with_gain.template operator()<false, false>();
}

template <typename Site>
static void both_sites(const QkImportance& a, const Tile& tile, Site site) {
  query_coefficients(a, tile);
  any_site(a, a.query_panel(tile.document, tile.kv_head), a.q_gain.data ? Gain::row : Gain::none, 0, site);
  if (a.one_site()) return;
  key_coefficients(a, tile);
  any_site(a, a.key_panel(tile.document, tile.kv_head), a.k_gain.data ? Gain::key : Gain::none, 1, site);
}

}  // namespace pymultiling::PYMULTILING_LEVEL
