// What the kernels of qk_importance and qk_estimate share: the problem and the layout of its panels.
#pragma once

#include <cstdint>

namespace pymultiling {

constexpr int64_t ROWS = 16;   // query rows of a tile; they share a panel's keys while those are in L1
constexpr int64_t KEYS = 128;  // keys of a panel that stay in L1 (16 KB), and the length of a float32 partial sum
constexpr int64_t BLOCK = 16;  // neurons side by side in a panel: one cache line
// Keys side by side in the panel for attention scores: two vectors of the widest instruction set.
constexpr int64_t SPAN = 32;

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// (B, heads, l, d) float32, d contiguous. data is null if the tensor is not given.
struct Heads {
  const float* data;
  int64_t batch_stride, head_stride, token_stride;
  const float* at(int64_t b, int64_t h, int64_t t) const {
    return data + b * batch_stride + h * head_stride + t * token_stride;
  }
};

// The rotation's factors. An output x[n] of the projection adds direct[t, n] x[n] to dimension n of the rotated head
// and cross[t, n] x[n] to dimension partner[n].
struct Rotation {  // (B or 1, l, d) float32, contiguous; direct is null without rotation
  const float *direct, *cross;
  int64_t batch_stride;
};

// The change of the attention scores has the same form for both sites, with lanes running over neurons n:
//
//     query neurons:  y_ij = direct_i[n] k'_j[n] + cross_i[n] k'_j[p] + growth_i[n] S_ij
//     key neurons:    y_ij = q'_i[n] direct_j[n] + q'_i[p] cross_j[n] + growth_j[n] S_ij
//
// Under LayerNorms S are the scores without the norm's bias, and share_i[n] G_ij or share_j[n] G_ij is added, where G
// are the scores of the norm's weight in place of the query or of the key.
//
// The panel of query neurons holds k'[n] and k'[p], that of key neurons holds direct, cross and growth. A panel is
// (blocks, keys, vectors, BLOCK), so the values that the sweep reads for one key are contiguous. The mean over the keys
// is subtracted from k', direct and cross. It does not affect softmax, but it would cost float32 precision (a key's
// bias may be a few hundred).
struct Panel {
  float* data;
  float* mean;     // (blocks, vectors, BLOCK)
  float* largest;  // (blocks, vectors, BLOCK): the largest magnitude in data
  int64_t vectors;
  // Returns the same panel, starting at neuron n of key 0. `keys` is the document's number of keys.
  Panel lanes(int64_t keys, int64_t n) const {
    const int64_t block = n / BLOCK * vectors * BLOCK, lane = n % BLOCK;
    return {data + block * keys + lane, mean + block + lane, largest + block + lane, vectors};
  }
};

struct QkImportance {
  Heads q, k, q_plain, k_plain, q_growth, k_growth;
  // Under LayerNorms over the heads; null without them. Rotated: the heads without the norm's bias, and the norm's
  // weight. By neuron: how much of the weight is added to the head without the neuron.
  Heads q_normed, k_normed, q_gain, k_gain, q_share, k_share;
  Rotation rotation;
  const int64_t* partner;  // (d,)
  // The valid positions of all documents. Document b has entries [offsets[b], offsets[b + 1]).
  const int64_t* tokens;
  const int64_t* offsets;
  int64_t kv_heads, group, size;
  float scale, softcap;  // softcap is 0 without a soft cap
  int64_t window;
  bool causal;         // whether a query sees no keys after its own
  Heads bias;          // (B or 1, H, l, l), added to S; data is null without biases
  const float* sinks;  // (H,), the score of each query head's attention sink; null without sinks
  bool rescales;       // whether neurons rescale whole attention scores, as under a norm over all heads

  const int64_t* tasks;  // (tasks, 3): document, query head, tile
  // The panels of document b start at panel_offsets[b] and take panels_size(l) for each key head.
  float* panels;
  const int64_t* panel_offsets;
  float* sums;  // (tasks, 2, outputs, width): a tile's sums for query neurons and for key neurons

  int64_t length(int64_t b) const { return offsets[b + 1] - offsets[b]; }
  int64_t width() const { return round_up(size, BLOCK); }
  bool rotates() const { return rotation.direct != nullptr; }
  bool is_centred() const { return q_share.data != nullptr; }
  // Whether the attention scores before the soft cap are kept beside the probabilities.
  bool needs_scores() const { return rescales || softcap != 0 || q_growth.data || k_growth.data; }
  // If neurons are zeroed after the rotation, query neuron n and key neuron n change the same attention scores by the
  // same amount.
  bool sites_coincide() const { return q_plain.data == nullptr; }

  // The panels of a key head with l keys: k' (spans, width, SPAN) for the attention scores, the query neurons' panel,
  // and the key neurons' panel. Behind them, under LayerNorms, k_normed and k_gain, each (spans, width, SPAN).
  // The two panels have at most 2 and 4 vectors, each with l keys, their mean and their largest magnitude.
  static int64_t keys_stride(int64_t l) { return round_up(l, SPAN); }
  int64_t panels_size(int64_t l) const { return width() * ((is_centred() ? 3 : 1) * keys_stride(l) + 6 * (l + 2)); }
  float* keys(int64_t b, int64_t kv) const { return panels + panel_offsets[b] + kv * panels_size(length(b)); }
  Panel query_panel(int64_t b, int64_t kv) const {
    return panel(keys(b, kv) + width() * keys_stride(length(b)), length(b), rotates() ? 2 : 1);
  }
  Panel key_panel(int64_t b, int64_t kv) const {
    const Panel before = query_panel(b, kv);
    return panel(
        before.largest + width() * before.vectors, length(b),
        (rotates() ? 2 : 1) + (k_growth.data ? 1 : 0) + is_centred());
  }
  float* normed_keys(int64_t b, int64_t kv) const {
    return keys(b, kv) + width() * (keys_stride(length(b)) + 6 * (length(b) + 2));
  }
  Panel panel(float* start, int64_t l, int64_t vectors) const {
    float* mean = start + width() * vectors * l;
    return {start, mean, mean + width() * vectors, vectors};
  }

  // The scratch memory of a tile: nine (ROWS, keys_stride) and five (ROWS, width) arrays, see qk_rows.h, and two more
  // rows.
  int64_t tile_size(int64_t l) const { return ROWS * (9 * keys_stride(l) + 5 * width()); }
  int64_t scratch_size(int64_t l) const { return tile_size(l) + 2 * keys_stride(l); }
};

}  // namespace pymultiling
