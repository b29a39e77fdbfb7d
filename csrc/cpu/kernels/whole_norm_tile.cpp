// whole_norm_importance to second order: what a tile of query rows of one head contributes.
//
// Without a neuron the attention scores S change by y, where y_ij = t_i S_ij for a query neuron and t_j S_ij for a key
// neuron. With c = y less its mean under A, the probabilities of a row change by F:
//
//     F = sum_j A_j^2 c_j^2 + rest
//
// A query neuron has c = t_i (S_ij - sum_j A S), so the sum is one number of the row times t_i^2. For a key neuron
//
//     sum_j A^2 c^2 = sum_j (A S)_j^2 t_j^2 + (v . t) (u . t),   u = A S,  v = (b0 - 2 A) A S,  b0 = sum_j A^2
//
// and the sum over the rows is a quadratic form of t, whose matrix v^T u serves all neurons.
//
// Where no |c| exceeds 1/4 the rest is at most
//
//     |rest| <= 2 (sum_j A^2 |c|^3 + V sum_j A^2 |c| + b0 V^1.5),   V = sum_j A c^2
//
// (u = e^c - 1 differs from c by at most c^2 e^|c| / 2, and m = sum_j A u is between 0 and V e^(1/4) / 2.) For key
// neurons Hoelder's and Young's inequalities make it a sum of one term for each key, a number times |t_j|^3: with y in
// place of c, at most sum_j A (7 A + 10 b0) |y|^3. Where one key has most of the probability, its y is subtracted from
// the others first.
#include "instruction_set.h"
#include "qk_rows.h"
#include "whole_norm.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

constexpr float PEAKED = 0.125f;  // largest probability of all other keys, beside which a row's top key is subtracted

namespace {

// The vectors of a row's values over its keys; lanes of keys that the row does not attend to are 0.
struct RowVectors {
  const Row& row;

  static ivec keys(int64_t j) {
    ivec key;
    for (int i = 0; i < LANES; i++) key[i] = static_cast<int32_t>(j) + i;
    return key;
  }
  ivec attended(int64_t j) const {
    return (keys(j) >= static_cast<int32_t>(row.first)) & (keys(j) < static_cast<int32_t>(row.last));
  }
  vec probability(int64_t j) const { return attended(j) ? load(row.probability + j) : vec{}; }
  vec score(int64_t j) const { return attended(j) ? load(row.score + j) : vec{}; }
  // S less a constant of the row, which keeps its digits where all scores of a row are large.
  vec centred_score(int64_t j) const { return attended(j) ? load(row.log2_probability + j) / LOG2_E : vec{}; }

  // Calls visit(j) for every vector of keys.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (int64_t j = row.first / LANES * LANES; j < row.last; j += LANES) visit(j);
  }
};

}  // namespace

static void query_sums(const RowVectors& at, float b0, float* square, float* cube, float* spread) {
  vec mean{};
  at.for_each([&](int64_t j) { mean += at.probability(j) * at.centred_score(j); });
  const float centre = sum(mean);
  vec squares{}, variance{}, first{}, third{}, largest{};
  at.for_each([&](int64_t j) {
    const vec p = at.probability(j), c = at.attended(j) ? at.centred_score(j) - centre : vec{}, size = abs(c);
    squares += p * p * c * c;
    variance += p * c * c;
    first += p * p * size;
    third += p * p * size * c * c;
    largest = max(size, largest);
  });
  const float v = sum(variance);
  *square = sum(squares);
  *cube = 2 * (sum(third) + v * sum(first) + b0 * v * __builtin_sqrtf(v));
  *spread = max_lane(largest);
}

// Writes the row's u and v, and adds its sums by key.
static void key_sums(const RowVectors& at, float b0, int64_t stride, float* u, float* v, float* by_key) {
  const Row& row = at.row;
  int64_t top = row.first;
  for (int64_t j = row.first; j < row.last; j++)
    if (row.probability[j] > row.probability[top]) top = j;
  double rest = 0, rest_squares = 0;
  for (int64_t j = row.first; j < row.last; j++) {
    if (j == top) continue;
    rest += row.probability[j];
    rest_squares += static_cast<double>(row.probability[j]) * row.probability[j];
  }
  const bool is_peaked = rest < PEAKED;
  const float r = rest, r2 = rest_squares;
  // Of a key's term: its coefficient is A (square A + linear).
  const float square = is_peaked ? 28.0f : 7.0f;
  const float linear = is_peaked ? 4.0f * (2.5f * b0 * r + 1.1f * r2 + 0.34f * b0 * __builtin_sqrtf(r)) : 10.0f * b0;
  const int32_t centre = is_peaked ? top : -1;  // the key whose y is subtracted
  at.for_each([&](int64_t j) {
    const vec p = at.probability(j), s = at.score(j), x = p * s, size = abs(s);
    store(u + j, x);
    store(v + j, (b0 - 2.0f * p) * x);
    const auto add_to = [&](int64_t which, vec y) {
      float* const to = by_key + which * stride + j;
      store(to, load(to) + y);
    };
    add_to(WholeNorm::DIAGONAL, x * x);
    const vec other = RowVectors::keys(j) == centre ? vec{} : p;
    add_to(WholeNorm::CUBE, other * (square * other + linear) * size * size * size);
    add_to(WholeNorm::ROUNDING, 4.0f * row.probability[top] * x * s);
    float* const largest = by_key + WholeNorm::LARGEST * stride + j;
    store(largest, max(size, load(largest)));
  });
  if (!is_peaked) return;
  const float size = __builtin_fabsf(row.score[top]);
  by_key[WholeNorm::CUBE * stride + top] += (square * r2 + linear * r) * size * size * size;
}

void whole_norm_tile(const QkImportance& a, const WholeNorm& to, int64_t task, float* scratch) {
  Tile tile;
  make_tile(a, task, scratch, tile);
  const int64_t stride = tile.stride, first_row = tile.first_row - to.first_row;
  float* by_key = to.by_key + first_row / ROWS * WholeNorm::KEY_SUMS * stride;
  __builtin_memset(by_key, 0, WholeNorm::KEY_SUMS * stride * sizeof(float));
  for (int64_t r = 0; r < tile.rows; r++) {
    const RowVectors at{tile.row[r]};
    const int64_t i = tile.first_row + r;
    float *u = to.u + (first_row + r) * stride, *v = to.v + (first_row + r) * stride;
    __builtin_memset(u, 0, stride * sizeof(float));
    __builtin_memset(v, 0, stride * sizeof(float));
    const Row& row = at.row;
    if (row.last - row.first == 1) {  // with a single key A' = A = 1 exactly
      const float nan_or_0 = 0.0f * row.score[row.first];
      to.square[i] = to.cube[i] = to.spread[i] = u[row.first] = v[row.first] = nan_or_0;
      continue;
    }
    vec squares{};
    at.for_each([&](int64_t j) { squares += at.probability(j) * at.probability(j); });
    const float b0 = sum(squares);
    query_sums(at, b0, to.square + i, to.cube + i, to.spread + i);
    key_sums(at, b0, stride, u, v, by_key);
  }
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
