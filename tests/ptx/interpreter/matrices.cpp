// Matrices that are spread over the lanes of a warp: ldmatrix, stmatrix, mma.
#include <algorithm>
#include <cstring>

#include "lanes.h"
#include "memory.h"
#include "products.h"

namespace ptx {
namespace {

// Matrices of 8 rows of 8 numbers of 16 bits. Lane l holds row l / 4, columns 2 (l % 4) and the next one, in a register
// of each matrix. Lanes 8 j to 8 j + 7 hold the addresses of the rows of matrix j. `flags`: the matrix is transposed.
void load_matrices(Warp& warp, const Instruction& i, Mask lanes) {
  require_all(warp, i, lanes);
  for (int j = 0; j < i.destinations; j++) {
    uint16_t matrix[8][8] = {};
    for (int row = 0; row < 8; row++) {
      const int lane = 8 * j + row;
      const uint32_t at = warp.source<uint32_t>(i, 0)[lane] + uint32_t(i.immediate);
      if (const uint8_t* from = read_shared({warp, lane, i.line}, at, 16)) std::memcpy(matrix[row], from, 16);
    }
    uint32_t results[LANES];
    for (int l = 0; l < LANES; l++) {
      const int row = l / 4, column = l % 4 * 2;
      results[l] = i.flags ? matrix[column][row] | uint32_t(matrix[column + 1][row]) << 16
                           : matrix[row][column] | uint32_t(matrix[row][column + 1]) << 16;
    }
    write(warp.destination<uint32_t>(i, j), results, lanes);
  }
}

void store_matrices(Warp& warp, const Instruction& i, Mask lanes) {
  require_all(warp, i, lanes);
  for (int j = 0; j < i.sources - 1; j++) {
    uint16_t matrix[8][8];
    for (int l = 0; l < LANES; l++) {
      const uint32_t pair = warp.source<uint32_t>(i, 1 + j)[l];
      const int row = l / 4, column = l % 4 * 2;
      (i.flags ? matrix[column][row] : matrix[row][column]) = uint16_t(pair);
      (i.flags ? matrix[column + 1][row] : matrix[row][column + 1]) = uint16_t(pair >> 16);
    }
    for (int row = 0; row < 8; row++) {
      const int lane = 8 * j + row;
      const uint32_t at = warp.source<uint32_t>(i, 0)[lane] + uint32_t(i.immediate);
      if (uint8_t* to = write_shared({warp, lane, i.line}, at, 16, matrix[row])) std::memcpy(to, matrix[row], 16);
    }
  }
}

// d (16, 8) = a (16, K) b (K, 8) + c (16, 8). With g = lane / 4 and t = lane % 4, register r of a holds row
// g + 8 (r % 2) and the columns that begin at N t + 4 N (r / 2), register r of b holds these rows of column g, and
// register r of c and d holds row g + 8 (r / 2), column 2 t + r % 2. N numbers fit into a register of a and b.
template <class Factors, int K>
void multiply(Warp& warp, const Instruction& i, Mask lanes) {
  require_all(warp, i, lanes);
  constexpr int N = Factors::COUNT, B_REGISTERS = K / (4 * N), A_REGISTERS = 2 * B_REGISTERS;
  float a[16][K], b[8][K];  // b is transposed
  for (int l = 0; l < LANES; l++)
    for (int k = 0; k < N; k++) {
      const int g = l / 4, t = l % 4;
      for (int r = 0; r < A_REGISTERS; r++)
        a[g + 8 * (r % 2)][N * t + 4 * N * (r / 2) + k] = Factors::get(warp.source<uint32_t>(i, r)[l], k);
      for (int r = 0; r < B_REGISTERS; r++)
        b[g][N * t + 4 * N * r + k] = Factors::get(warp.source<uint32_t>(i, A_REGISTERS + r)[l], k);
    }
  float results[4][LANES];
  for (int l = 0; l < LANES; l++)
    for (int r = 0; r < 4; r++) {
      const float c = warp.source<float>(i, A_REGISTERS + B_REGISTERS + r)[l];
      results[r][l] = sum_products(a[l / 4 + 8 * (r / 2)], b[l % 4 * 2 + r % 2], K, c);
    }
  for (int r = 0; r < 4; r++) write(warp.destination<float>(i, r), results[r], lanes);
}

// d (8, 8) = a (8, 4) b (4, 8) + c (8, 8) in float64.
void multiply_doubles(Warp& warp, const Instruction& i, Mask lanes) {
  require_all(warp, i, lanes);
  const double *a = warp.source<double>(i, 0), *b = warp.source<double>(i, 1);
  double results[2][LANES];
  for (int l = 0; l < LANES; l++)
    for (int r = 0; r < 2; r++) {
      double sum = warp.source<double>(i, 2 + r)[l];
      for (int k = 0; k < 4; k++) sum = std::fma(a[l / 4 * 4 + k], b[(l % 4 * 2 + r) * 4 + k], sum);
      results[r][l] = sum;
    }
  for (int r = 0; r < 2; r++) write(warp.destination<double>(i, r), results[r], lanes);
}

}  // namespace

void require_all(Warp& warp, const Instruction& i, Mask lanes) {
  if (lanes != warp.alive)
    warp.launch().complain(
        i.line, "lanes %08x execute an instruction that all of a warp must, %08x", lanes, warp.alive);
}

void add_matrices(Table& t) {
  t["ldmatrix"] = load_matrices;
  t["stmatrix"] = store_matrices;
  const std::string mma = "mma.sync.aligned.";
  t[mma + "m16n8k16.row.col.f32.bf16.bf16.f32"] = multiply<BrainFactors, 16>;
  t[mma + "m16n8k8.row.col.f32.bf16.bf16.f32"] = multiply<BrainFactors, 8>;
  t[mma + "m16n8k16.row.col.f32.f16.f16.f32"] = multiply<HalfFactors, 16>;
  t[mma + "m16n8k8.row.col.f32.f16.f16.f32"] = multiply<HalfFactors, 8>;
  t[mma + "m16n8k8.row.col.f32.tf32.tf32.f32"] = multiply<Tf32Factors, 8>;
  t[mma + "m16n8k4.row.col.f32.tf32.tf32.f32"] = multiply<Tf32Factors, 4>;
  t[mma + "m8n8k4.row.col.f64.f64.f64.f64"] = multiply_doubles;
}

}  // namespace ptx
