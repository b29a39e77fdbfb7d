// The sweep: the sums over the keys for a rotated pair's four sites, with ROWS queries per warp.
//
// With t the shifted change of the attention scores, times log2(e), at one of the sites query n, query p, key n, key p:
//
//     v = A (2^t - 1),  m = sum_j v,  b1 = sum_j A v,  b2 = sum_j v^2
//
// t is bilinear in a query's part and a key's part of the pair. A tensor core product computes t + log2 A. Of the 8
// slots of its inner dimension, 6 hold one side's two values as three bfloat16 each, against the other side's repeated
// values. The other two slots hold the row's shift, times 1. So the exponential gives p = A 2^t, and v = p - A.
//
// Three exponentials are sufficient for four sites. Zeroing both query neurons of a pair subtracts as much from an
// attention score as zeroing both key neurons. So t_qn + t_qp = t_kn + t_kp, up to the rounding of q' and k':
//
//     P = 2^(t_kn - t_qp),   p_kn = P p_qp,   p_qn = P p_kp 2^x,   x = t_qn + t_qp - t_kn - t_kp
//
// x is bilinear too: one more product gives s = (1 + y) / sqrt(2), y = ln(2) x, and s s + 1/2 = 1 + y + y^2 / 2. Where
// x may be large, or P may leave float32's range, a warp uses four exponentials. keys.cuh and queries.cuh have the
// limits.
#pragma once

#include "layout.cuh"

namespace pymultiling {

enum Site { QUERY_N = 0, QUERY_P = 1, KEY_N = 2, KEY_P = 3, SITES = 4 };  // bit 0: p, bit 1: keys

constexpr float LN_2 = 0.6931471805599453f;
constexpr float ROOT_HALF = 0.7071067811865476f;

// m, b1 and b2 over a lane's part of the keys, for rows g and g + 8 and all sites.
struct Sums {
  float values[2][SITES][3];
};

// The queries' factors of the products, for rows g and g + 8. With three exponentials `third` and `fourth` are those
// for P and x, with four those for key n and query n.
struct QuerySide {
  uint32_t query_p[2], key_p[2], third[2], fourth[2];
};

// The keys' factors, for 4 steps.
struct KeySide {
  uint32_t key[4], of_n[4], of_p[4], rounding_error[4];
};

// The offsets of a lane's key factors in a tile's words, in bytes.
struct KeyOffsets {
  int key, of_n, of_p, rounding_error;
};

// Loads and stores 16 bytes at once.
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

// Loads the words of rows g and g + 8 for slot c of lane 4 g + c.
PML_DEVICE QuerySide load_query_side(const QueryWords* rows, int lane) {
  uint32_t first[4], second[4];
  load_four(rows[lane >> 2].three[lane & 3][0], first);
  load_four(rows[lane >> 2].three[lane & 3][2], second);
  return {{first[0], first[1]}, {first[2], first[3]}, {second[0], second[1]}, {second[2], second[3]}};
}

// Switches the queries' factors to four exponentials.
PML_DEVICE void use_four_exponentials(QuerySide& side, const QueryWords* rows, int lane) {
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
  const auto word = [&](int w) { return 4 * ((pair * KEY_WORDS + w) * TILE + (first ^ swizzle(w))); };
  const int ones = 4 * (ONES + (first ^ swizzle(3))), zeros = 4 * (ZEROS + first);
  return {
      c == 3 ? ones : word(KEY), c == 3 ? zeros : word(OF_N + c), c == 3 ? ones : word(OF_P + c),
      word(c < 2 ? KEY : ROUNDING + c - 2)};
}

template <bool THREE>
PML_DEVICE KeySide load_key_side(const uint32_t* words, const KeyOffsets& at) {
  const char* from = reinterpret_cast<const char*>(words);
  KeySide side;
  load_four(from + at.key, side.key);
  load_four(from + at.of_n, side.of_n);
  load_four(from + at.of_p, side.of_p);
  if (THREE) load_four(from + at.rounding_error, side.rounding_error);
  return side;
}

// Adds GROUP keys, or the first half of them, to the sums. `logs` is the lane's log2 A; A follows. THREE: use three
// exponentials.
template <bool THREE>
PML_DEVICE void sweep(
    Sums& sums, const QuerySide& query, const KeySide& keys, const float* logs, const float (&start)[4], bool half) {
  const float zero[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int step = 0; step < 4; step++) {
    if (step == 2 && half) break;
    float query_n[4], query_p[4], key_n[4], key_p[4], log_a[4], a[4];
    load_four(logs + group_offset(step, 0), log_a);
    load_four(logs + GROUP_FLOATS + group_offset(step, 0), a);
    mma_8(query_p, query.query_p[0], query.query_p[1], keys.key[step], log_a);
    mma_8(key_p, query.key_p[0], query.key_p[1], keys.of_p[step], log_a);
    if (THREE) {
      mma_8(key_n, query.third[0], query.third[1], keys.key[step], zero);
      mma_8(query_n, query.fourth[0], query.fourth[1], keys.rounding_error[step], start);
    } else {
      mma_8(key_n, query.third[0], query.third[1], keys.key[step], log_a);
      mma_8(query_n, query.fourth[0], query.fourth[1], keys.key[step], log_a);
    }
    mma_8(key_n, query.key_p[0], query.key_p[1], keys.of_n[step], key_n);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float power_third = power_of_2(key_n[i]), power_query_p = power_of_2(query_p[i]),
                  power_key_p = power_of_2(key_p[i]);
      float v[SITES];
      v[QUERY_P] = power_query_p - a[i];
      v[KEY_P] = power_key_p - a[i];
      if (THREE) {
        v[QUERY_N] = multiply_add(power_third, power_key_p * multiply_add(query_n[i], query_n[i], 0.5f), -a[i]);
        v[KEY_N] = multiply_add(power_third, power_query_p, -a[i]);
      } else {
        v[QUERY_N] = power_of_2(query_n[i]) - a[i];
        v[KEY_N] = power_third - a[i];
      }
#pragma unroll
      for (int site = 0; site < SITES; site++) {
        float (&sum)[3] = sums.values[i >> 1][site];
        sum[0] += v[site];
        sum[1] = multiply_add(a[i], v[site], sum[1]);
        sum[2] = multiply_add(v[site], v[site], sum[2]);
      }
    }
  }
}

}  // namespace pymultiling
