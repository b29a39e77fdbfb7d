#include "qk_rows.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

// Stores queries times the scale for the tile's rows. Rows and lanes that do not exist are zero.
static void load_queries(const QkImportance& a, const Tile& tile, const Heads& queries, float* rows) {
  const int64_t* tokens = a.tokens + a.offsets[tile.document] + tile.first_row;
  for (int64_t r = 0; r < ROWS; r++) {
    float* to = rows + r * a.width();
    __builtin_memset(to, 0, a.width() * sizeof(float));
    if (r >= tile.rows) continue;
    const float* q = queries.at(tile.document, tile.head, tokens[r]);
    for (int64_t n = 0; n < a.size; n++) to[n] = a.scale * q[n];
  }
}

// Sets each row's coefficients of a query panel: direct, cross, growth and share, all multiplied by log2(e).
void set_query_coefficients(const QkImportance& a, const Tile& tile) {
  const int64_t* tokens = a.tokens + a.offsets[tile.document] + tile.first_row;
  for (int64_t r = 0; r < tile.rows; r++) {
    float *direct = tile.direct + r * a.width(), *cross = tile.cross + r * a.width(),
          *growth = tile.growth + r * a.width();
    const float* q = a.sites_coincide() ? a.q.at(tile.document, tile.head, tokens[r])
                                        : a.q_plain.at(tile.document, tile.head, tokens[r]);
    __builtin_memset(direct, 0, a.width() * sizeof(float));
    __builtin_memset(cross, 0, a.width() * sizeof(float));
    __builtin_memset(growth, 0, a.width() * sizeof(float));
    for (int64_t n = 0; n < a.size; n++) direct[n] = -LOG2_E * a.scale * q[n];
    if (a.q_growth.data) {
      const float* relative = a.q_growth.at(tile.document, tile.head, tokens[r]);
      for (int64_t n = 0; n < a.size; n++) {
        direct[n] *= 1.0f + relative[n];
        growth[n] = LOG2_E * relative[n];
      }
    }
    if (a.is_centred()) {
      const float* share = a.q_share.at(tile.document, tile.head, tokens[r]);
      for (int64_t n = 0; n < a.width(); n++) tile.share[r * a.width() + n] = n < a.size ? LOG2_E * share[n] : 0.0f;
    }
    if (a.rotates()) {
      const int64_t rotation_offset = tile.document * a.rotation.batch_stride + tokens[r] * a.size;
      for (int64_t n = 0; n < a.size; n++) {
        cross[n] = direct[n] * a.rotation.cross[rotation_offset + n];
        direct[n] *= a.rotation.direct[rotation_offset + n];
      }
    }
  }
}

// Sets each row's coefficients of a key panel: q'[n], q'[p]. Call it after set_query_coefficients, which leaves zeros
// beyond the head's size.
void set_key_coefficients(const QkImportance& a, const Tile& tile) {
  for (int64_t r = 0; r < tile.rows; r++) {
    const float* q = tile.q + r * a.width();
    __builtin_memcpy(tile.direct + r * a.width(), q, a.width() * sizeof(float));
    for (int64_t n = 0; n < a.size; n++) tile.cross[r * a.width() + n] = q[a.partner[n]];
  }
}

// Finds the keys that each row attends to: those within the window, in causal attention none after its own.
static void find_keys(const QkImportance& a, Tile& tile) {
  const int64_t* tokens = a.tokens + a.offsets[tile.document];
  for (int64_t r = 0; r < tile.rows; r++) {
    Row& row = tile.row[r];
    row.own = tile.first_row + r;
    row.first = r ? tile.row[r - 1].first : 0;
    while (tokens[row.own] - tokens[row.first] >= a.window) row.first++;
    row.last = r && !a.causal ? tile.row[r - 1].last : row.own + 1;
    while (!a.causal && row.last < tile.keys && tokens[row.last] - tokens[row.own] < a.window) row.last++;
    row.probability = tile.probability + r * tile.stride;
    row.log2_probability = tile.log2_probability + r * tile.stride;
    row.score = tile.score + r * tile.stride;
    row.sigmoid_minus = tile.sigmoid_minus + r * tile.stride;
    row.sigmoid_plus = tile.sigmoid_plus + r * tile.stride;
    row.excess = tile.excess + r * tile.stride;
    row.hyperbolic = tile.hyperbolic + r * tile.stride;
    row.slope = tile.slope + r * tile.stride;
    row.gain = tile.gain + r * tile.stride;
    row.has_sink = a.sinks != nullptr;
    row.sink = row.log2_sink = 0;
  }
}

// Computes the products of all rows of q (ROWS, width) with the keys that any row attends to, 4 rows and 2 vectors of
// keys at a time in registers. keys: (spans, width, SPAN). scores: (ROWS, stride).
static void compute_scores(const QkImportance& a, const Tile& tile, const float* q, const float* keys, float* scores) {
  constexpr int64_t R = 4, V = 2;
  const int64_t begin = tile.row[0].first, end = tile.row[tile.rows - 1].last;
  for (int64_t j = begin / SPAN * SPAN; j < end; j += V * LANES) {
    const float* span = keys + j / SPAN * a.width() * SPAN + j % SPAN;
    for (int64_t r = 0; r < tile.rows; r += R) {
      vec s[R][V] = {};
      for (int64_t n = 0; n < a.size; n++) {
        const vec k[V] = {load(span + n * SPAN), load(span + n * SPAN + LANES)};
        for (int64_t i = 0; i < R; i++)
          for (int64_t v = 0; v < V; v++) s[i][v] += k[v] * q[(r + i) * a.width() + n];
      }
      for (int64_t i = 0; i < R; i++)
        for (int64_t v = 0; v < V; v++) store(scores + (r + i) * tile.stride + j + v * LANES, s[i][v]);
    }
  }
}

// Returns tanh(x) for |x| <= 40. Small x keep their digits: a soft cap far above the attention scores is none.
static vec tanh(vec x) {
  const vec d = exp2_minus_1(-2 * LOG2_E * abs(x)), size = -d / (2.0f + d);
  return x < 0.0f ? -size : size;
}

// Returns the part of the attention scores of the query q (width,) that the panel's mean had removed.
static float removed_score(const QkImportance& a, const Tile& tile, const float* q) {
  const Panel panel = a.query_panel(tile.document, tile.kv_head);
  float constant = 0;
  for (int64_t n = 0; n < a.size; n++) constant += q[n] * panel.mean[n / BLOCK * panel.vectors * BLOCK + n % BLOCK];
  return constant;
}

// Adds the part of the attention scores of row r that the panel's mean had removed, and applies the soft cap. Infinite
// attention scores become NaN: no softmax can weigh them.
static void restore_scores(const QkImportance& a, Tile& tile, int64_t r, int64_t begin, int64_t end) {
  const float constant = removed_score(a, tile, tile.q + r * a.width());
  vec maximum{};
  for (int64_t j = begin; j < end; j += LANES) {
    const int64_t at = r * tile.stride + j;
    const vec centred = load(tile.log2_probability + at), raw = centred + constant + (centred - centred);
    store(tile.score + at, raw);
    maximum = max(abs(raw), maximum);
    if (a.softcap == 0) continue;
    vec x = raw / a.softcap;
    x = x < -LARGEST_CAPPED ? splat(-LARGEST_CAPPED) : x;
    x = x > LARGEST_CAPPED ? splat(LARGEST_CAPPED) : x;
    const vec sigmoid_minus = 1.0f / (1.0f + exp(2.0f * x)), sigmoid_plus = 1.0f / (1.0f + exp(-2.0f * x));
    store(tile.sigmoid_minus + at, sigmoid_minus);
    store(tile.sigmoid_plus + at, sigmoid_plus);
    store(tile.excess + at, 2 * LOG2_E * (raw / a.softcap - x));
    const vec hyperbolic = tanh(x);
    store(tile.hyperbolic + at, hyperbolic);
    store(tile.slope + at, 4 * LOG2_E * a.softcap * sigmoid_minus * sigmoid_plus);
    store(tile.log2_probability + at, a.softcap * hyperbolic);
  }
  tile.row[r].largest_score = max_lane(maximum);
}

// Converts the attention scores of row r to A and log2 A.
static void softmax(const QkImportance& a, Tile& tile, int64_t r) {
  Row& row = tile.row[r];
  float *p = tile.probability + r * tile.stride, *s = tile.log2_probability + r * tile.stride;

  const int64_t begin = row.first / LANES * LANES, end = round_up(row.last, LANES);
  if (a.needs_scores()) restore_scores(a, tile, r, begin, end);
  if (a.bias.data) {
    const int64_t* tokens = a.tokens + a.offsets[tile.document];
    const float* bias = a.bias.at(tile.document, tile.head, tokens[row.own]);
    for (int64_t j = row.first; j < row.last; j++) {
      const float b = bias[tokens[j]];
      s[j] += b + (b - b);  // NaN where it is infinite
    }
  }
  for (int64_t j = begin; j < row.first; j++) s[j] = -__builtin_inff();
  for (int64_t j = row.last; j < end; j++) s[j] = -__builtin_inff();

  vec maximum = splat(-__builtin_inff()), total{};
  for (int64_t j = begin; j < end; j += LANES) maximum = max(load(s + j), maximum);
  float shift = max_lane(maximum), sink = 0;
  if (row.has_sink) {
    // Without a soft cap the scores here lack what the panel's mean had removed.
    sink = a.sinks[tile.head] - (a.softcap == 0 ? removed_score(a, tile, tile.q + r * a.width()) : 0);
    shift = sink > shift ? sink : shift;
  }
  for (int64_t j = begin; j < end; j += LANES) {
    const vec t = (load(s + j) - shift) * LOG2_E, power = exp2(t);
    store(s + j, t);
    store(p + j, power);
    total += power;
  }
  float normal = sum(total);
  if (row.has_sink) {
    row.log2_sink = (sink - shift) * LOG2_E;
    row.sink = __builtin_exp2f(row.log2_sink);
    normal += row.sink;
  }
  const float log2_normal = __builtin_log2f(normal);
  row.sink /= normal;
  row.log2_sink -= log2_normal;
  for (int64_t j = begin; j < end; j += LANES) {
    store(p + j, load(p + j) / normal);
    store(s + j, load(s + j) - log2_normal);
  }
}

// Computes the products of the rows of q (ROWS, width) with keys (spans, width, SPAN), and each row's largest
// magnitude. With `restores`, the panel's mean was removed from the keys and is added back.
static void compute_products(
    const QkImportance& a, Tile& tile, const float* q, const float* keys, bool restores, float* products,
    float Row::* largest) {
  compute_scores(a, tile, q, keys, products);
  for (int64_t r = 0; r < tile.rows; r++) {
    Row& row = tile.row[r];
    const float constant = restores ? removed_score(a, tile, q + r * a.width()) : 0;
    vec maximum{};
    for (int64_t j = row.first / LANES * LANES; j < row.last; j += LANES) {
      const vec product = load(products + r * tile.stride + j), raw = product + constant + (product - product);
      store(products + r * tile.stride + j, raw);
      maximum = max(abs(raw), maximum);
    }
    row.*largest = max_lane(maximum);
  }
}

void set_query_scores(const QkImportance& a, Tile& tile) {
  const float* keys = a.keys(tile.document, tile.kv_head);
  float* const queries = tile.direct;  // the coefficients are set later
  load_queries(a, tile, a.q_normed, queries);
  compute_products(a, tile, queries, keys, true, tile.score, &Row::largest_score);
  load_queries(a, tile, a.q_gain, queries);
  compute_products(a, tile, queries, keys, true, tile.gain, &Row::largest_gain);
}

void set_key_scores(const QkImportance& a, Tile& tile) {
  const float* normed = a.normed_keys(tile.document, tile.kv_head);
  compute_products(a, tile, tile.q, normed, false, tile.score, &Row::largest_score);
  compute_products(a, tile, tile.q, normed + a.width() * tile.stride, false, tile.gain, &Row::largest_gain);
}

void make_tile(const QkImportance& a, int64_t task, float* scratch, Tile& tile) {
  tile.document = a.tasks[3 * task];
  tile.head = a.tasks[3 * task + 1];
  tile.kv_head = tile.head / a.group;
  tile.first_row = a.tasks[3 * task + 2] * ROWS;
  tile.keys = a.length(tile.document);
  tile.rows = tile.keys - tile.first_row < ROWS ? tile.keys - tile.first_row : ROWS;
  tile.stride = a.keys_stride(tile.keys);
  float** by_key[] = {&tile.probability, &tile.log2_probability, &tile.score, &tile.sigmoid_minus, &tile.sigmoid_plus,
                      &tile.excess,      &tile.hyperbolic,       &tile.slope, &tile.gain};
  for (float** array : by_key) {
    *array = scratch;
    scratch += ROWS * tile.stride;
  }
  float** by_neuron[] = {&tile.q, &tile.direct, &tile.cross, &tile.growth, &tile.share};
  for (float** array : by_neuron) {
    *array = scratch;
    scratch += ROWS * a.width();
  }
  load_queries(a, tile, a.q, tile.q);
  find_keys(a, tile);
  compute_scores(a, tile, tile.q, a.keys(tile.document, tile.kv_head), tile.log2_probability);
  for (int64_t r = 0; r < tile.rows; r++) softmax(a, tile, r);
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
