// qk_importance, first pass: the panels of one document's key head (see qk_importance.h), from its valid tokens only.
//
// Reads k'. For key neurons that are zeroed before the rotation, it also reads k_plain, k_growth and the rotation.
// Writes at most 2 floats for every key and neuron to the panel of query neurons (k'[n], k'[p]) and at most 3 to that
// of key neurons (direct, cross, growth). Those of key neurons are multiplied by log2(e). Lanes beyond the head's size
// are zero.
#include "functions.h"
#include "instruction_set.h"
#include "qk_importance.h"

namespace pymultiling::PYMULTILING_INSTRUCTION_SET {

// Finishes one vector of a block, that is one kind of value (see Panel) for BLOCK neurons: computes its mean over the
// keys, subtracts the mean if `subtract_mean`, and then finds the largest magnitude.
static void finish_vector(const Panel& panel, int64_t keys, int64_t block, int64_t vector, bool subtract_mean) {
  const int64_t step = panel.vectors * BLOCK;
  float* data = panel.data + block * keys * step + vector * BLOCK;
  float* mean = panel.mean + block * step + vector * BLOCK;
  float* largest = panel.largest + block * step + vector * BLOCK;
  float total[BLOCK] = {}, largest_magnitude[BLOCK] = {};
  for (int64_t j = 0; j < keys; j++)
    for (int64_t i = 0; i < BLOCK; i++) total[i] += data[j * step + i];
  for (int64_t i = 0; i < BLOCK; i++) mean[i] = total[i] / keys;
  for (int64_t j = 0; j < keys; j++) {
    for (int64_t i = 0; i < BLOCK; i++) {
      float& x = data[j * step + i];
      x -= subtract_mean ? mean[i] : 0.0f;
      largest_magnitude[i] = __builtin_fabsf(x) > largest_magnitude[i] ? __builtin_fabsf(x) : largest_magnitude[i];
    }
  }
  for (int64_t i = 0; i < BLOCK; i++) largest[i] = largest_magnitude[i];
}

// Fills a panel. `values_of_key(j)` returns a function of (vector, neuron) that returns the value of key j. The mean
// over the keys is subtracted from the first `centred` vectors.
template <typename ValuesOfKey>
static void fill(const Panel& panel, int64_t keys, int64_t size, int64_t centred, ValuesOfKey values_of_key) {
  const int64_t blocks = (size + BLOCK - 1) / BLOCK;
  for (int64_t j = 0; j < keys; j++) {
    const auto value = values_of_key(j);
    for (int64_t block = 0; block < blocks; block++) {
      float* at = panel.data + (block * keys + j) * panel.vectors * BLOCK;
      for (int64_t v = 0; v < panel.vectors; v++)
        for (int64_t i = 0; i < BLOCK; i++)
          at[v * BLOCK + i] = block * BLOCK + i < size ? value(v, block * BLOCK + i) : 0.0f;
    }
  }
  for (int64_t block = 0; block < blocks; block++)
    for (int64_t v = 0; v < panel.vectors; v++) finish_vector(panel, keys, block, v, v < centred);
}

// Fills (spans, width, SPAN) with value(key, neuron), and with 0 behind the last key and neuron.
template <typename Value>
static void fill_spans(const QkImportance& a, int64_t keys, float* spans, Value value) {
  for (int64_t j = 0; j < a.keys_stride(keys); j++)
    for (int64_t n = 0; n < a.width(); n++)
      spans[(j / SPAN * a.width() + n) * SPAN + j % SPAN] = j < keys && n < a.size ? value(j, n) : 0.0f;
}

void qk_panels(const QkImportance& a, int64_t document, int64_t kv_head) {
  const int64_t keys = a.length(document);
  const int64_t* tokens = a.tokens + a.offsets[document];

  const Panel query_panel = a.query_panel(document, kv_head);
  fill(query_panel, keys, a.size, query_panel.vectors, [&](int64_t j) {
    const float* k = a.k.at(document, kv_head, tokens[j]);
    return [=, &a](int64_t v, int64_t n) { return k[v == 0 ? n : a.partner[n]]; };
  });

  fill_spans(a, keys, a.keys(document, kv_head), [&](int64_t j, int64_t n) {
    return query_panel.data[(n / BLOCK * keys + j) * query_panel.vectors * BLOCK + n % BLOCK];
  });

  if (a.sites_coincide()) return;
  const Panel key_panel = a.key_panel(document, kv_head);
  const int64_t centred = query_panel.vectors;  // direct and, with rotation, cross, but not growth
  fill(key_panel, keys, a.size, centred, [&](int64_t j) {
    const int64_t t = tokens[j];
    const float* plain = a.k_plain.at(document, kv_head, t);
    const float* growth = a.k_growth.data ? a.k_growth.at(document, kv_head, t) : nullptr;
    const float* share = a.is_centred() ? a.k_share.at(document, kv_head, t) : nullptr;
    const int64_t rotation_offset = document * a.rotation.batch_stride + t * a.size;
    return [=, &a](int64_t v, int64_t n) {
      const float coefficient = -LOG2_E * plain[n] * (growth ? 1.0f + growth[n] : 1.0f);
      if (v == 0) return a.rotates() ? coefficient * a.rotation.direct[rotation_offset + n] : coefficient;
      if (v == 1 && a.rotates()) return coefficient * a.rotation.cross[rotation_offset + n];
      return LOG2_E * (v == centred ? growth : share)[n];  // the panel has these vectors only with a growth
    };
  });
  if (!a.is_centred()) return;
  float* normed = a.normed_keys(document, kv_head);
  fill_spans(a, keys, normed, [&](int64_t j, int64_t n) { return a.k_normed.at(document, kv_head, tokens[j])[n]; });
  fill_spans(a, keys, normed + a.width() * a.keys_stride(keys), [&](int64_t j, int64_t n) {
    return a.k_gain.at(document, kv_head, tokens[j])[n];
  });
}

}  // namespace pymultiling::PYMULTILING_INSTRUCTION_SET
