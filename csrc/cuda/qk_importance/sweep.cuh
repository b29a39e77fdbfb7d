// The sweep: for a rotated pair its four sites' sums over the keys, of ROWS queries a warp.
//
// With t the shifted change of the scores, times log2(e), at one of the sites query n, query p, key n, key p:
//
//     v = A (2^t - 1),  m = sum_j v,  b1 = sum_j A v,  b2 = sum_j v^2
//
// t is bilinear in what a query and what a key has of the pair. A product of the tensor cores makes it, log2 A added:
// of 8 slots of its inner dimension 6 hold one side's two values in three bfloat16 each, with the other side's
// repeated; the other two hold the row's shift, times 1. So p = A 2^t comes out of the exponential, and v = p - A.
//
// Three exponentials do for four sites. Zeroing both query neurons of a pair takes as much from a score as zeroing both
// key neurons, so that t_qn + t_qp = t_kn + t_kp, up to how q' and k' were rounded. With P = 2^(t_kn - t_qp):
//
//     p_kn = P p_qp,   p_qn = P p_kp 2^x,   x = t_qn + t_qp - t_kn - t_kp
//
// x is bilinear too: one more product gives s = (1 + y) / sqrt(2), y = ln(2) x, and s s + 1/2 = 1 + y + y^2 / 2.
// Where x may be large, or P leave float32's range, a warp takes four exponentials (the limits: keys.cuh, queries.cuh).
#pragma once

#include "layout.cuh"

namespace pymultiling {

enum Site { QUERY_N = 0, QUERY_P = 1, KEY_N = 2, KEY_P = 3, SITES = 4 };  // bits: of p, of the keys

constexpr float LN_2 = 0.6931471805599453f;
constexpr float ROOT_HALF = 0.7071067811865476f;

// m, b1, b2 of a lane's share of the keys: for rows g and g + 8, all sites.
struct Sums {
  float of[2][SITES][3];
};

// The queries' side of the products, for rows g and g + 8.
struct QuerySide {
  uint32_t query_p[2], key_p[2], third[2], fourth[2];
};

// The keys' side, of 4 steps.
struct KeySide {
  uint32_t key[4], of_n[4], of_p[4], lacking[4];
};

// Where a lane finds the keys' side in a tile's words, in bytes.
struct KeyOffsets {
  int key, of_n, of_p, lacking;
};

// 16 bytes at once.
template <typename T>
struct alignas(16) FourOf {
  T x[4];
};

template <typename T>
PML_DEVICE void load_four(const void* from, T (&x)[4]) {
  const FourOf<T> four = *static_cast<const FourOf<T>*>(from);
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = four.x[i];
}

template <typename T>
PML_DEVICE void store_four(T (&to)[4], T a, T b, T c, T d) {
  *reinterpret_cast<FourOf<T>*>(to) = {{a, b, c, d}};
}

// The words of rows g and g + 8 for slot c of lane 4 g + c.
PML_DEVICE QuerySide load_query_side(const QueryWords* rows, int lane) {
  uint32_t first[4], second[4];
  load_four(rows[lane >> 2].three[lane & 3][0], first);
  load_four(rows[lane >> 2].three[lane & 3][2], second);
  return {{first[0], first[1]}, {first[2], first[3]}, {second[0], second[1]}, {second[2], second[3]}};
}

// From here on four exponentials.
PML_DEVICE void change_to_four(QuerySide& side, const QueryWords* rows, int lane) {
  uint32_t words[4];
  load_four(rows[lane >> 2].four[lane & 3][0], words);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    side.third[h] = words[h];
    side.fourth[h] = words[2 + h];
  }
}

PML_DEVICE KeyOffsets key_offsets(int pair, int lane) {
  const int c = lane & 3, first = 4 * (lane >> 2);
  const auto word = [&](int w) { return 4 * ((pair * KEY_WORDS + w) * TILE + (first ^ turned_place(w))); };
  const int ones = 4 * (ONES + (first ^ turned_place(3))), zeros = 4 * (ZEROS + first);
  return {
      c == 3 ? ones : word(KEY), c == 3 ? zeros : word(OF_N + c), c == 3 ? ones : word(OF_P + c),
      word(c < 2 ? KEY : LACKING + c - 2)};
}

template <bool THREE>
PML_DEVICE KeySide load_key_side(const uint32_t* words, const KeyOffsets& at) {
  const char* from = reinterpret_cast<const char*>(words);
  KeySide side;
  load_four(from + at.key, side.key);
  load_four(from + at.of_n, side.of_n);
  load_four(from + at.of_p, side.of_p);
  if (THREE) load_four(from + at.lacking, side.lacking);
  return side;
}

// GROUP keys, or half of them; their log2 A, A begin at the lane's own.
template <bool THREE>
PML_DEVICE void sweep(
    Sums& sums, const QuerySide& query, const KeySide& keys, const float* logs, const float (&start)[4], bool half) {
  const float nothing[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int step = 0; step < 4; step++) {
    if (step == 2 && half) break;
    float query_n[4], query_p[4], key_n[4], key_p[4], log_a[4], a[4];
    load_four(logs + in_group(step, 0), log_a);
    load_four(logs + GROUP_FLOATS + in_group(step, 0), a);
    mma_8(query_p, query.query_p[0], query.query_p[1], keys.key[step], log_a);
    mma_8(key_p, query.key_p[0], query.key_p[1], keys.of_p[step], log_a);
    if (THREE) {
      mma_8(key_n, query.third[0], query.third[1], keys.key[step], nothing);
      mma_8(query_n, query.fourth[0], query.fourth[1], keys.lacking[step], start);
    } else {
      mma_8(key_n, query.third[0], query.third[1], keys.key[step], log_a);
      mma_8(query_n, query.fourth[0], query.fourth[1], keys.key[step], log_a);
    }
    mma_8(key_n, query.key_p[0], query.key_p[1], keys.of_n[step], key_n);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float third = power_of_2(key_n[i]), of_query_p = power_of_2(query_p[i]), of_key_p = power_of_2(key_p[i]);
      float v[SITES];
      v[QUERY_P] = of_query_p - a[i];
      v[KEY_P] = of_key_p - a[i];
      if (THREE) {
        v[QUERY_N] = fused(third, of_key_p * fused(query_n[i], query_n[i], 0.5f), -a[i]);
        v[KEY_N] = fused(third, of_query_p, -a[i]);
      } else {
        v[QUERY_N] = power_of_2(query_n[i]) - a[i];
        v[KEY_N] = third - a[i];
      }
#pragma unroll
      for (int site = 0; site < SITES; site++) {
        float (&sum)[3] = sums.of[i >> 1][site];
        sum[0] += v[site];
        sum[1] = fused(a[i], v[site], sum[1]);
        sum[2] = fused(v[site], v[site], sum[2]);
      }
    }
  }
}

}  // namespace pymultiling
