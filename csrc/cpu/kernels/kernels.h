// The device code's side of every operator: plain structs of pointers and sizes, and one table of functions per
// instruction set. Tensors stop at the files one folder up.
#pragma once

#include <cstdint>

namespace pymultiling {

// Rows [begin, end) that belong to one document, or to none (-1). Never longer than RUN rows: sums over a run are
// float32 in registers, sums of runs float64, so long documents keep their digits.
struct Run {
  int64_t begin, end, document;
};
constexpr int64_t RUN = 128;

// Columns that one task of an operator on (tokens, N) handles; a task owns its columns for all tokens, so results do
// not depend on the number of threads.
constexpr int64_t COLUMNS = 128;

struct Matrix {  // float32 or bfloat16; rows `stride` elements apart, each row contiguous
  const void* data;
  int64_t stride;
};

template <typename Sum>
struct ColumnSums {
  Matrix x;
  bool bfloat16;
  int64_t width;
  const Run* runs;
  int64_t run_count;
  Sum* sums;  // (count, width), zero on entry
};
using ActiveCount = ColumnSums<int64_t>;
using ColumnEnergy = ColumnSums<double>;

constexpr int64_t LINE = 16;  // dimensions of a head that one task of head_products handles: a cache line of float32

struct HeadProducts {
  Matrix x;
  bool bfloat16;
  int64_t kv_heads, group, size;
  const Run* runs;
  int64_t run_count;
  double* products;  // (count, kv_heads, group, group, size), zero on entry
};

enum class Activation { silu, gelu, gelu_tanh, relu };

struct GatedFfn {
  Matrix gate, up;  // up.data null: plain
  bool bfloat16;
  int64_t width;
  Activation activation;
  const Run* runs;
  int64_t run_count;
  const bool* masks;       // (sets, width), or null
  const int64_t* mask_ids;
  void* hidden;            // (tokens, width), as gate
  double* squares;         // (count, width), zero on entry, as the next two
  int64_t* active;
  double* magnitude;
};

struct MaskNeurons {
  Matrix x;
  int element_size;  // 2 or 4 bytes
  int64_t width;
  const bool* masks;
  const int64_t* mask_ids;
  float scale;
  const void* values;  // (width,) like x, or null
  void* result;
  int64_t result_stride;
};

constexpr int64_t NEAREST_BLOCK = 192;  // points that a task of nearest_neighbors takes, twice

struct NearestNeighbors {
  const float* points;   // (count, size)
  const double* scale;   // (count,), of every point; one with 0 is no neighbour here
  const double* centre;  // (size,), taken from it then; a neighbour's score is the product less half its square
  int64_t count, size, kept;
  float* panels;     // (padded, size) for whole blocks, as the next two; points side by side as the tiles take them
  float* offset;     // half the squares; NaN for padding, and for what is no neighbour
  float* least;      // the worst score kept
  float* scores;     // (count, kept): a heap for every point, -inf on entry
  int32_t* indices;  // of the scores' points
};

struct QkImportance;  // qk_importance.h

struct Kernels {
  const char* level;
  void (*active_count)(const ActiveCount&, int64_t first_column);
  void (*column_energy)(const ColumnEnergy&, int64_t first_column);
  void (*head_products)(const HeadProducts&, int64_t kv_head, int64_t first_dimension);
  void (*gated_ffn)(const GatedFfn&, int64_t first_column);
  void (*mask_neurons)(const MaskNeurons&, int64_t first_row, int64_t last_row);
  void (*nearest_panels)(const NearestNeighbors&, int64_t block);
  void (*nearest_pair)(const NearestNeighbors&, int64_t one, int64_t other);  // blocks, that may be the same
  double (*half_square)(const NearestNeighbors&, int64_t one, int64_t other);  // |x - y|^2 / 2 of scaled points
  void (*qk_panels)(const QkImportance&, int64_t document, int64_t kv_head);
  void (*qk_tile)(const QkImportance&, int64_t task, float* scratch);
  void (*qk_estimate_tile)(const QkImportance&, int64_t task, float* scratch);
};

// The table of the instruction set in use: the best that the machine has, or the one that was chosen.
const Kernels& kernels();

}  // namespace pymultiling
